"""Tests of `app_loader.at_rest.sealed_file`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app_loader.at_rest.file_keys import HEADER, FileKeys
from app_loader.at_rest.sealed_file import CHUNK, MAGIC, SealedReader, SealedWriter, content_size
from app_loader.libcrypto_aead import TAG_SIZE
from app_loader.sealing.errors import DamagedFileError, UnknownKeyError
from app_loader.sealing.host_key import HostKey
from app_loader.sealing.root_keys import KeyRing

STORED = CHUNK + TAG_SIZE


def host_key(number: int) -> HostKey:
    return HostKey(bytes([number]) * 32, bytes(32), "0123456789abcdef")


KEYS = FileKeys(lambda: KeyRing([host_key(1)]))


def seal(path: Path, content: bytes, *, name: bytes = b"files/data/a", piece: int = 100_000) -> bytes:
    with path.open("wb", buffering=0) as file:
        writer = SealedWriter(file.fileno(), KEYS.new(MAGIC, name))
        for start in range(0, len(content), piece):
            writer.write(content[start : start + piece])
        writer.finish()
    return path.read_bytes()


def unseal(path: Path, *, name: bytes = b"files/data/a", keys: FileKeys = KEYS) -> bytes:
    with path.open("rb", buffering=0) as file:
        reader = SealedReader(file.fileno(), keys.of(MAGIC, os.pread(file.fileno(), HEADER.size, 0), name))
        content = b"".join(iter(reader.read, b""))
    assert len(content) == reader.size
    return content


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 5])
def test_what_was_sealed_opens_and_its_size_tells_the_contents(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    sealed = seal(tmp_path / "f", content)
    assert unseal(tmp_path / "f") == content
    assert content_size(len(sealed)) == size
    assert size < 64 or content[:64] not in sealed


def test_the_same_content_is_never_sealed_the_same_way(tmp_path: Path) -> None:
    assert seal(tmp_path / "f", b"same")[HEADER.size :] != seal(tmp_path / "g", b"same")[HEADER.size :]


@pytest.mark.parametrize("cut", [0, 1, HEADER.size, HEADER.size + 3, HEADER.size + STORED, HEADER.size + 2 * STORED])
def test_a_file_that_is_cut_off_is_refused_before_it_gives_anything(tmp_path: Path, cut: int) -> None:
    sealed = seal(tmp_path / "f", bytes(3 * CHUNK))
    (tmp_path / "f").write_bytes(sealed[:cut])
    with pytest.raises(DamagedFileError):
        unseal(tmp_path / "f")


def test_chunks_in_another_order_or_of_another_file_are_refused(tmp_path: Path) -> None:
    first, second = seal(tmp_path / "f", bytes(3 * CHUNK)), seal(tmp_path / "g", bytes(3 * CHUNK))

    def chunk(sealed: bytes, number: int) -> bytes:
        return sealed[HEADER.size + number * STORED :][:STORED]

    header = first[: HEADER.size]
    for chunks in (
        (chunk(first, 1), chunk(first, 0), chunk(first, 2)),
        (chunk(first, 0), chunk(second, 1), chunk(first, 2)),
        (chunk(first, 0), chunk(first, 0), chunk(first, 2)),
        (chunk(first, 0), chunk(first, 2)),
        (chunk(first, 0), chunk(first, 1), chunk(first, 2), chunk(first, 2)),
    ):
        (tmp_path / "f").write_bytes(header + b"".join(chunks))
        with pytest.raises(DamagedFileError):
            unseal(tmp_path / "f")


def test_any_changed_byte_is_noticed(tmp_path: Path) -> None:
    sealed = seal(tmp_path / "f", b"content")
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1
        (tmp_path / "f").write_bytes(changed)
        with pytest.raises((DamagedFileError, UnknownKeyError)):
            unseal(tmp_path / "f")


def test_a_file_opens_at_its_own_path_only(tmp_path: Path) -> None:
    seal(tmp_path / "f", b"content", name=b"files/data/a")
    with pytest.raises(DamagedFileError):
        unseal(tmp_path / "f", name=b"files/data/b")


def test_new_files_have_the_newest_key_and_old_ones_open_as_long_as_theirs_is_there(tmp_path: Path) -> None:
    seal(tmp_path / "f", b"content")
    rotated = FileKeys(lambda: KeyRing([host_key(2), host_key(1)]))
    assert unseal(tmp_path / "f", keys=rotated) == b"content"
    assert rotated.new(MAGIC, b"x").header[8:24].hex() == host_key(2).id
    gone = FileKeys(lambda: KeyRing([host_key(2)]))
    with pytest.raises(UnknownKeyError, match=f"the key host {host_key(1).id} is not one of this keep's"):
        unseal(tmp_path / "f", keys=gone)
