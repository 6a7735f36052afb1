"""A keep that publishes a hostile `keep.json` gains nothing, and harms neither its manager nor other keeps."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.system.deployment import Deployment, eventually, example


def _copy_of_another(file: Path, other: Path) -> None:
    shutil.copy(other, file)


def _another_certificate(file: Path, other: Path) -> None:
    own, foreign = json.loads(file.read_bytes()), json.loads(other.read_bytes())
    file.write_text(json.dumps({**own, "certificate": foreign["certificate"]}))


def _foreign_endpoint(file: Path, other: Path) -> None:
    file.write_text(json.dumps({**json.loads(file.read_bytes()), "endpoint": "127.0.0.1:1"}))


def _link(file: Path, other: Path) -> None:
    file.unlink()
    file.symlink_to(other)


def _fifo(file: Path, other: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def _gigabyte(file: Path, other: Path) -> None:
    with file.open("ab") as stream:
        stream.truncate(1024**3)


def _missing(file: Path, other: Path) -> None:
    file.unlink()


ATTACKS: dict[str, Callable[[Path, Path], None]] = {
    "copy": _copy_of_another,
    "certificate": _another_certificate,
    "endpoint": _foreign_endpoint,
    "link": _link,
    "fifo": _fifo,
    "gigabyte": _gigabyte,
    "missing": _missing,
}


def test_a_hostile_keep_file_makes_only_its_own_keep_unusable(fresh_deployment: Deployment) -> None:
    keeps = {name: fresh_deployment.create("--name", name) for name in ("honest", *ATTACKS)}
    manager = json.loads((fresh_deployment.home / "manager.json").read_text())
    folder = Path(manager["runtime"]) / "keeps"
    files = {name: folder / f"{manager['deployment']}-{keep['id']}" / "keep.json" for name, keep in keeps.items()}
    fresh_deployment.kill_manager()
    for name, attack in ATTACKS.items():
        attack(files[name], files["honest"])
    fresh_deployment.serve()

    def failed() -> dict[str, dict[str, Any]]:
        return {keep["name"]: keep for keep in fresh_deployment.keeps() if keep["state"] == "failed"}

    eventually(lambda: failed().keys() == ATTACKS.keys())
    for name, keep in failed().items():
        assert keep["reason"].startswith("unverified: "), name
        assert keep["endpoint"] == keeps[name]["endpoint"], name
        refused = fresh_deployment.keepctl("run", str(example("hello")), "--keep", name, check=False)
        assert refused.returncode == 125, name
    assert fresh_deployment.keepctl("run", str(example("hello")), "--keep", "honest").stdout == "Hello, world!\n"
    fresh_deployment.keepctl("restart", "link")
    assert fresh_deployment.keepctl("run", str(example("hello")), "--keep", "link").stdout == "Hello, world!\n"


def _nest(folder: Path, depth: int) -> None:
    """Folders in one another, deeper than paths can be written and stacks can be high."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=descriptor)
        inner = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)


def test_a_keep_whose_folders_are_nested_very_deep_is_removed_all_the_same(fresh_deployment: Deployment) -> None:
    keep = fresh_deployment.create("--name", "deep")
    environment = Path(f"/proc/{keep['pid']}/environ").read_bytes().split(b"\0")
    (named,) = [entry for entry in environment if entry.startswith(b"STATE_DIRECTORY=")]
    state = Path(os.fsdecode(named.partition(b"=")[2])).resolve()
    _nest(state / "files" / "data", 3000)
    fresh_deployment.keepctl("rm", "deep")
    assert not state.exists()
    assert fresh_deployment.keeps() == []
