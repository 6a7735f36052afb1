"""Renders the unit files of `systemd/` for an installation and puts them where an instance reads them."""

from __future__ import annotations

import stat
import sys
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path

KEEP_PACKAGES = ("keep_loader", "app_loader", "keep_protocol")
BROKER_PACKAGES = ("keep_net", "keep_loader", "keep_protocol")
"""What keeps and their network brokers import; found by name, for the manager itself imports only the last."""

_TEMPLATES = Path(__file__).resolve().parent.parent / "units"
# The folders of a static user are ours to make; what DynamicUser= would bind over a covered home, this does.
_STATIC_USER = "RuntimeDirectoryPreserve=yes"
_STATIC_STATE = f"{_STATIC_USER}\nBindPaths=%S/wasmkeep/keeps/%i"
_INSTALLED = "/usr/lib/wasmkeep"
_VISIBLE = Path("/usr")
_ROOT_HOME = Path("/root")


class KeepUser(StrEnum):
    """As whom keeps run."""

    DYNAMIC = "dynamic"
    """DynamicUser=: systemd makes up a user for each keep."""
    STATIC = "static"
    """User= with a name that only the private instance knows: after 252, a user instance refuses DynamicUser=."""
    SHARED = "shared"
    """The user of the instance, for all keeps."""


@dataclass(frozen=True, slots=True)
class KeepUnit:
    """What `keep@.service` depends on, apart from where its code is."""

    home: Path
    """The manager's home, covered in the keep's view."""
    logs: Path
    user: KeepUser


def render_keep_unit(unit: KeepUnit) -> str:
    """`keep@.service` for this interpreter, its virtual environment and these packages."""
    return _render("keep@.service", unit, code_folders(KEEP_PACKAGES), static_user=_STATIC_STATE)


def render_broker_unit(unit: KeepUnit) -> str:
    """`keep-net@.service` likewise."""
    return _render("keep-net@.service", unit, code_folders(BROKER_PACKAGES), static_user=_STATIC_USER)


def _render(name: str, unit: KeepUnit, folders: list[Path], *, static_user: str) -> str:
    shared = unit.user is KeepUser.SHARED
    template = _TEMPLATES / "user" / name if shared else _TEMPLATES / name
    lines = []
    for line in template.read_text().splitlines():
        name, _, value = line.partition("=")
        if name == "ExecStart":
            line = "ExecStart=" + value.replace(f"{_INSTALLED}/bin/python", _escape(_interpreter()))
        elif line == f"BindReadOnlyPaths=-{_INSTALLED}":
            line = "BindReadOnlyPaths=" + " ".join(_escape(folder) for folder in folders)
        elif name == "StandardOutput":
            line = f"StandardOutput=append:{_escape(unit.logs)}/%i.log"
        elif line == "TemporaryFileSystem=/etc/wasmkeep:ro":
            # systemd 257 makes the /root of ProtectHome=tmpfs 0700, and keeps do not get through to code below it.
            hidden = [_ROOT_HOME] if any(folder.is_relative_to(_ROOT_HOME) for folder in folders) else []
            covers = dict.fromkeys((_cover(unit.home), *hidden))
            line = "TemporaryFileSystem=" + " ".join(f"{_escape(folder)}:ro" for folder in covers)
        elif line == "DynamicUser=yes" and unit.user is KeepUser.STATIC:
            line = static_user
        if line != "BindReadOnlyPaths=":
            lines.append(line)
    return "\n".join(lines) + "\n"


def render_machine_unit(unit: KeepUnit) -> str:
    """`keep-vm@.service`: a keep's unit, and after it what machines need differently; later lines win or add."""
    return render_keep_unit(unit) + "\n" + (_TEMPLATES / "keep-vm.conf").read_text()


def render_manager_unit(*, home: Path, kind: str) -> str:
    """`keep-manager.service` that serves `home` on the supervisor `kind`."""
    command = f"ExecStart={_escape(Path(sys.prefix) / 'bin' / 'keep-manager')} serve --home {_escape(home)}"
    target = "multi-user.target" if kind == "system" else "default.target"
    lines = []
    for line in (_TEMPLATES / "keep-manager.service").read_text().splitlines():
        if line.startswith("ExecStart="):
            line = f"{command} --systemd {kind}"
        elif line.startswith("WantedBy="):
            line = f"WantedBy={target}"
        elif kind != "system" and line.startswith(("After=network", "Wants=network")):
            continue
        lines.append(line)
    return "\n".join(lines) + "\n"


def code_folders(names: tuple[str, ...] = KEEP_PACKAGES) -> list[Path]:
    """What has to be bound into a unit's view: interpreter, virtual environment and the packages it imports.

    The packages one by one: the folder around them may be a checkout with a home and its keys in it.
    """
    specs = [find_spec(package) for package in names]
    packages = [Path(spec.origin).parent for spec in specs if spec is not None and spec.origin is not None]
    folders: list[Path] = []
    for folder in (Path(sys.base_prefix), Path(sys.prefix), *packages):
        covered = [_VISIBLE, *folders]
        if not any(folder.is_relative_to(other) for other in covered):
            folders.append(folder)
    return folders


def write_units(folder: Path, *, targets: dict[str, str], unit: KeepUnit) -> bool:
    """Put all unit files of an instance into `folder`; returns whether any of them changed."""
    for needed in (folder, unit.logs):
        needed.mkdir(parents=True, exist_ok=True)
    contents = {
        **targets,
        "keep@.service": render_keep_unit(unit),
        "keep-vm@.service": render_machine_unit(unit),
        "keep-net@.service": render_broker_unit(unit),
        "keeps.slice": (_TEMPLATES / "keeps.slice").read_text(),
    }
    changed = False
    for name, content in contents.items():
        file = folder / name
        if not file.exists() or file.read_text() != content:
            file.write_text(content)
            changed = True
    return changed


def _cover(home: Path) -> Path:
    """What to cover so that the home is out of sight and the keep's own state below it can be reached.

    A keep with a uid of its own gets through no folder that is closed to others, so the outermost of these it is.
    """
    for folder in (*reversed(home.parents), home):
        if folder.is_dir() and not folder.stat().st_mode & stat.S_IXOTH:
            return folder
    return home


def _interpreter() -> Path:
    return Path(sys.prefix) / "bin" / "python"


def _escape(path: Path) -> str:
    """`path` as a word of a unit file: systemd.syntax(7), systemd.unit(5) on specifiers."""
    text = str(path).replace("%", "%%").replace("\\", "\\\\")
    return text.replace(" ", "\\x20").replace(":", "\\:")
