"""What a guest sees of WASI preview 1 in a keep is what it sees in bare wasmtime."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.deployment import Deployment, guest

BARE = """
import sys
import wasmtime
engine = wasmtime.Engine()
linker = wasmtime.Linker(engine)
linker.define_wasi()
store = wasmtime.Store(engine)
wasi = wasmtime.WasiConfig()
wasi.argv = ["preview1", sys.argv[3]]
wasi.preopen_dir(sys.argv[2], sys.argv[3])
wasi.inherit_stdout()
wasi.inherit_stderr()
store.set_wasi(wasi)
instance = linker.instantiate(store, wasmtime.Module.from_file(engine, sys.argv[1]))
try:
    instance.exports(store)["_start"](store)
except wasmtime.ExitTrap as ended:
    sys.exit(ended.code)
"""


def _in_bare_wasmtime(folder: Path, name: str) -> str:
    command = [sys.executable, "-I", "-c", BARE, str(guest("preview1")), str(folder), name]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("name", ["/", "/folder", "fs-tests.dir", "."])
def test_files_clocks_and_descriptors_are_those_of_bare_wasmtime(
    deployment: Deployment, keep: str, tmp_path: Path, name: str
) -> None:
    bare = _in_bare_wasmtime(tmp_path, name)
    assert bare.endswith("shut down standard output: ENOTSOCK\n")
    ran = deployment.keepctl("run", "--keep", keep, "--dir", f"{tmp_path}:{name}", str(guest("preview1")), "--", name)
    assert ran.stdout == bare


def test_the_usual_folders_are_as_good(deployment: Deployment, keep: str, tmp_path: Path) -> None:
    ran = deployment.keepctl("run", "--keep", keep, str(guest("preview1")), "--", "/data")
    assert ran.stdout == _in_bare_wasmtime(tmp_path, "/data")


def test_folders_in_plaintext_at_rest_are_as_good(deployment: Deployment, tmp_path: Path) -> None:
    plain = deployment.create("--at-rest", "plain")["id"]
    ran = deployment.keepctl("run", "--keep", plain, str(guest("preview1")), "--", "/output")
    deployment.keepctl("rm", plain)
    assert ran.stdout == _in_bare_wasmtime(tmp_path, "/output")


def test_a_run_sees_no_folders_when_it_is_to_see_none(deployment: Deployment, keep: str, tmp_path: Path) -> None:
    prestat = str(guest("prestat"))
    assert deployment.keepctl("run", "--keep", keep, prestat).stdout == "|/input|/output|/data|\n"
    assert deployment.keepctl("run", "--keep", keep, "--no-folders", prestat).stdout == "|\n"
    (tmp_path / "x").touch()
    named = ("--put", f"{tmp_path / 'x'}:/data/x", "--dir", f"{tmp_path}:.")
    assert deployment.keepctl("run", "--keep", keep, "--no-folders", *named, prestat).stdout == "|.|/data|\n"
