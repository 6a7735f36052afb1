"""Tries out, at every start, the parts of the sandbox that cost next to nothing to try.

systemd ignores some directives silently (no BPF, no user namespace, another cgroup hierarchy), so only an effect
counts. The whole list is tried by `keep_loader.probe`, once per unit and instance.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from keep_protocol.handover import SandboxFact

_OWN_PACKAGE = Path(__file__).resolve().parent


def facts(visible: tuple[Path, ...]) -> tuple[SandboxFact, ...]:
    """What holds now. `visible` are the folders that the unit binds into places that it hides."""
    return tuple(_facts(visible))


def code_folders() -> tuple[Path, ...]:
    """Interpreter, virtual environment and packages: what a keep needs to see of the machine."""
    packages = (_OWN_PACKAGE, *(_OWN_PACKAGE.parent / name for name in ("app_loader", "keep_protocol")))
    return tuple(dict.fromkeys((Path(sys.prefix), Path(sys.base_prefix), *packages)))


def _facts(visible: tuple[Path, ...]) -> Iterator[SandboxFact]:
    status = _process_status()
    yield SandboxFact("NoNewPrivileges", status.get("NoNewPrivs") == "1")
    yield SandboxFact("SystemCallFilter", status.get("Seccomp") == "2", f"Seccomp: {status.get('Seccomp')}")
    bounding = int(status.get("CapBnd", "1"), 16)
    effective = int(status.get("CapEff", "1"), 16)
    yield SandboxFact("CapabilityBoundingSet", bounding == effective == 0, f"{bounding:#x}")
    yield SandboxFact("ProtectSystem", bool(os.statvfs("/usr").f_flag & os.ST_RDONLY))
    yield _hidden("ProtectHome", ("/root", "/home"), visible)
    yield _hidden("PrivateTmp", ("/tmp", "/var/tmp"), visible)
    yield _loopback_only()
    yield _address_families()
    yield SandboxFact("UMask", _umask() == 0o077)


def _process_status() -> dict[str, str]:
    lines = Path("/proc/self/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _hidden(name: str, places: tuple[str, ...], visible: tuple[Path, ...]) -> SandboxFact:
    """Nothing is to be seen in `places` but the way to `visible` folders."""
    for place in places:
        depth = len(Path(place).parts)
        within = (folder for folder in visible if folder.is_relative_to(place) and len(folder.parts) > depth)
        allowed = {folder.parts[depth] for folder in within}
        try:
            seen = set(os.listdir(place))
        except OSError:
            continue
        if extra := sorted(seen - allowed):
            return SandboxFact(name, False, f"{place} shows {extra[0]}")
    return SandboxFact(name, True)


def _loopback_only() -> SandboxFact:
    lines = Path("/proc/self/net/dev").read_text().splitlines()[2:]
    interfaces = sorted(line.partition(":")[0].strip() for line in lines)
    return SandboxFact("PrivateNetwork", interfaces == ["lo"], " ".join(interfaces)[:200])


def _address_families() -> SandboxFact:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()
    except OSError:
        return SandboxFact("RestrictAddressFamilies", True)
    return SandboxFact("RestrictAddressFamilies", False, "an AF_INET socket can be made")


def _umask() -> int:
    previous = os.umask(0o077)
    os.umask(previous)
    return previous
