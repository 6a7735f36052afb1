"""A machine's disk on a real file system: made once, locked, and never half made."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from keep_loader.errors import MachineError
from keep_loader.machine.disk import DISK_FILE, open_disk
from keep_protocol.machine import disk_size
from keep_protocol.spec import DEFAULT_LIMITS, MiB

MKE2FS = shutil.which("mke2fs", path="/usr/sbin:/sbin:/usr/bin")
SIZE = 64 * MiB


@pytest.fixture
def mke2fs() -> str:
    if MKE2FS is None:
        pytest.skip("mke2fs is not installed: apt-get install e2fsprogs")
    return MKE2FS


def test_a_disk_is_made_once_and_takes_little_of_the_hosts(mke2fs: str, tmp_path: Path) -> None:
    os.close(open_disk(mke2fs, tmp_path, disk_size(DEFAULT_LIMITS)))
    disk = tmp_path / DISK_FILE
    status = disk.stat()
    assert status.st_size == disk_size(DEFAULT_LIMITS)
    assert status.st_blocks * 512 < 64 * MiB
    assert status.st_mode & 0o777 == 0o600
    checked = subprocess.run(
        [str(Path(mke2fs).with_name("e2fsck")), "-fn", str(disk)], capture_output=True, check=False
    )
    assert checked.returncode == 0
    # What is there is kept, whatever size would be asked for today.
    os.close(open_disk("/nonexistent", tmp_path, SIZE))
    assert disk.stat().st_ino == status.st_ino
    assert disk.stat().st_size == status.st_size


def test_two_machines_never_have_one_disk(mke2fs: str, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    descriptor = open_disk(mke2fs, first, SIZE)
    (second / DISK_FILE).hardlink_to(first / DISK_FILE)
    with pytest.raises(MachineError, match=r"disk-in-use: another machine has .*/second/disk.ext4: end it, or give"):
        open_disk(mke2fs, second, SIZE)
    os.close(descriptor)
    os.close(open_disk(mke2fs, second, SIZE))


def test_a_disk_that_is_a_link_is_not_followed(mke2fs: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"")
    (tmp_path / DISK_FILE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(MachineError, match=r"disk-unusable: disk\.ext4: Too many levels of symbolic links"):
        open_disk(mke2fs, tmp_path, SIZE)


@pytest.mark.parametrize(
    ("program", "size", "said"),
    [("/nonexistent", SIZE, "No such file or directory"), (MKE2FS or "/bin/false", 4096, "none can be made")],
)
def test_what_could_not_be_made_is_told_and_is_no_disk(program: str, size: int, said: str, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=f"disk-unusable: .*{said}"):
        open_disk(program, tmp_path, size)
    assert not (tmp_path / DISK_FILE).exists()


def test_what_an_interrupted_attempt_left_is_made_anew(mke2fs: str, tmp_path: Path) -> None:
    (tmp_path / "disk.new").write_bytes(b"half")
    os.close(open_disk(mke2fs, tmp_path, SIZE))
    assert sorted(path.name for path in tmp_path.iterdir()) == [DISK_FILE]
