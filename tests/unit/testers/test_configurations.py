"""keepctl and files that say how a workload is run."""

from __future__ import annotations

from pathlib import Path

import pytest

from testers.keepctl import program
from testers.keepctl.configuration_template import TEMPLATE
from testers.keepctl.configurations import open_configuration, with_features


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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--feature", "threads"], "--feature: no keep has threads"),
        (["--feature", "memory46"], 'did you mean "memory64"?'),
        (["--feature", "gc", "--keep", "prices"], "a keep that exists has a configuration"),
    ],
)
def test_a_feature_that_cannot_be_had_is_refused_before_anybody_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    (tmp_path / "a.wasm").write_bytes(b"\0asm\1\0\0\0")
    command = ["run", *arguments, str(tmp_path / "a.wasm"), "--manager", "https://127.0.0.1:1"]
    assert program.main(command) != 0
    assert words in capsys.readouterr().err


def test_features_of_the_command_line_are_added_to_those_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "Keep.toml").write_text('args = ["a"]\nfeatures = ["memory64"]\n')
    file = open_configuration(tmp_path / "Keep.toml")
    both = with_features(file, ["gc", "memory64"])
    alone = with_features(None, ["gc"])
    assert both is not None
    assert (both.configuration.args, both.configuration.features) == (("a",), ("gc", "memory64"))
    assert alone is not None
    assert alone.configuration.features == ("gc",)
    assert with_features(file, []) is file
