"""Runs programs whose answers are wanted and whose failures are answers too."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Final

from keep_manager.errors import ProgramError

_DEADLINE: Final = 10.0
_MAX_ANSWER: Final = 256 * 1024


def ask(command: Sequence[str], deadline: float = _DEADLINE) -> str:
    """What a program printed. Raises `ProgramError` when it is missing, fails, or does not end in time."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=deadline, check=False, env={"LC_ALL": "C"}
        )
    except OSError as error:
        raise ProgramError(f"{command[0]}: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise ProgramError(f"{command[0]} did not answer within {deadline:g} s") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        raise ProgramError(f"{command[0]}: {said[-1][:200] if said else f'exit status {done.returncode}'}")
    return done.stdout[:_MAX_ANSWER].decode(errors="replace")
