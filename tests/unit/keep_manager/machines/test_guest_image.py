"""Guest images as the manager hands them on: whole, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from keep_image.manifest import INITRAMFS, KERNEL, MANIFEST
from keep_manager.errors import GuestImageError
from keep_manager.machines.guest_image import GuestImages
from keep_protocol.machine import INITRAMFS_FD, KERNEL_FD
from tests.unit.keep_manager.machines.images import write_image


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_the_files_of_an_image_are_handed_on_open(tmp_path: Path) -> None:
    image, files = GuestImages(write_image(tmp_path)).open()
    try:
        assert os.pread(files[KERNEL_FD], 100, 0) == b"kernel"
        assert os.pread(files[INITRAMFS_FD], 100, 0) == b"initramfs"
        assert image.manifest.size == len(b"kernel") + len(b"initramfs")
    finally:
        for descriptor in files.values():
            os.close(descriptor)


def test_looking_leaves_nothing_open(tmp_path: Path) -> None:
    before = open_files()
    GuestImages(write_image(tmp_path)).look()
    assert open_files() == before


@pytest.mark.parametrize("name", [KERNEL, INITRAMFS])
def test_an_image_with_one_byte_changed_is_refused(tmp_path: Path, name: str) -> None:
    images = GuestImages(write_image(tmp_path))
    images.look()
    content = bytearray((tmp_path / name).read_bytes())
    content[0] ^= 1
    (tmp_path / name).write_bytes(content)
    before = open_files()
    with pytest.raises(GuestImageError, match=r"it was changed; run `keep-manager image build`"):
        images.look()
    assert open_files() == before


def test_an_image_that_is_built_anew_is_the_new_one(tmp_path: Path) -> None:
    images = GuestImages(write_image(tmp_path))
    first = images.look()
    write_image(tmp_path, kernel=b"another kernel")
    assert images.look().manifest.kernel != first.manifest.kernel


def test_an_image_that_is_missing_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(GuestImageError, match="keep-manager image build"):
        GuestImages(tmp_path / "nothing").look()


@pytest.mark.parametrize("name", [KERNEL, INITRAMFS])
def test_an_image_without_one_of_its_files_names_the_remedy(tmp_path: Path, name: str) -> None:
    write_image(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(GuestImageError, match=f"{name}: No such file or directory; run `keep-manager image build`"):
        GuestImages(tmp_path).look()


def test_a_manifest_that_is_none_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path)
    (tmp_path / MANIFEST).write_text("{}")
    with pytest.raises(GuestImageError, match="is not usable"):
        GuestImages(tmp_path).look()
