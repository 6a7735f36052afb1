"""Tests of `testers.keepctl.completion`."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from testers.keepctl.completion import SHELLS, script, words_of
from testers.keepctl.program import build_parser


def test_every_command_and_option_is_known() -> None:
    words = words_of(build_parser())
    assert {"create", "ls", "run", "identity", "--home", "--version"} <= set(words[""])
    assert {"--dir", "--stdin", "--home"} <= set(words["run"])
    assert "--self-signed" in words["identity new"]
    assert set(SHELLS) <= set(words["completion"])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("keepctl st", {"stop", "start"}),
        ("keepctl --home D ru", {"run", "runs"}),
        ("keepctl run x.wasm --ti", {"--timeout"}),
        ("keepctl identity n", {"new"}),
        ("keepctl identity new --self", {"--self-signed"}),
        ("keepctl completion z", {"zsh"}),
    ],
)
def test_bash_completes_commands_and_options(line: str, expected: set[str]) -> None:
    words = " ".join(f"'{word}'" for word in line.split(" "))
    code = f"COMP_WORDS=({words}); COMP_CWORD={line.count(' ')}; _keepctl; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    program = f"{script('bash', build_parser())}\n{code}"
    done = subprocess.run(["bash", "-uc", program], capture_output=True, text=True, check=True)
    assert (set(done.stdout.split()), done.stderr) == (expected, "")


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_itself_accepts_its_script(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    subprocess.run([shell, "-n"], input=script(shell, build_parser()), text=True, check=True)
