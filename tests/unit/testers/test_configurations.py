"""keepctl and files that say how a workload is run."""

from __future__ import annotations

from pathlib import Path

import pytest

from testers.keepctl import program
from testers.keepctl.configuration_template import TEMPLATE


def test_init_writes_a_file_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "Keep.toml"
    assert program.main(["init", str(path)]) == 0
    assert path.read_text() == TEMPLATE
    path.write_text("mine")
    assert program.main(["init", str(path)]) != 0
    assert path.read_text() == "mine"
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "load"])
def test_a_file_with_a_mistake_is_refused_before_anybody_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    (tmp_path / "a.wasm").write_bytes(b"\0asm\1\0\0\0")
    (tmp_path / "Keep.toml").write_text("argz = []\n")
    keep = ["prices"] if command == "load" else []
    arguments = [command, *keep, str(tmp_path / "a.wasm"), "--config", str(tmp_path / "Keep.toml")]
    assert program.main([*arguments, "--manager", "https://127.0.0.1:1"]) != 0
    assert "Keep.toml:1: argz: there is no such key; did you mean `args`?" in capsys.readouterr().err
