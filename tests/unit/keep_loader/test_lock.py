"""One process per keep's state."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from keep_loader.errors import LockError
from keep_loader.lock import lock_state


def test_a_second_process_does_not_get_the_state(tmp_path: Path) -> None:
    descriptor = lock_state(tmp_path)
    program = "import sys, pathlib; from keep_loader.lock import lock_state as l; l(pathlib.Path(sys.argv[1]))"
    second = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=False)
    assert "LockError" in second.stderr
    os.close(descriptor)
    third = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=False)
    assert third.returncode == 0


def test_a_lock_that_a_guest_has_made_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic links"):
        lock_state(tmp_path)


def test_the_error_says_what_to_do(tmp_path: Path) -> None:
    descriptor = lock_state(tmp_path)
    with pytest.raises(LockError, match="end it before"):
        lock_state(tmp_path)
    os.close(descriptor)
