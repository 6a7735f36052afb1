"""The host's sealing keys: made once a keep, for the manager's eyes, rotated, gone with the keep."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from keep_manager.errors import SealingKeyError
from keep_manager.sealing_keys import SealingKeys

KEEP = "0123456789abcdef"


def test_a_keep_has_the_same_key_for_life_and_another_keep_another(tmp_path: Path) -> None:
    keys = SealingKeys(tmp_path / "keys")
    (key,) = keys.of(KEEP)
    assert len(base64.b64decode(key)) == 32
    assert SealingKeys(tmp_path / "keys").of(KEEP) == (key,)
    assert keys.of("f" * 16) != (key,)


def test_nobody_else_can_read_them(tmp_path: Path) -> None:
    SealingKeys(tmp_path / "keys").of(KEEP)
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "keys" / KEEP).stat().st_mode & 0o777 == 0o600


def test_a_rotated_key_comes_first_and_the_old_ones_stay(tmp_path: Path) -> None:
    keys = SealingKeys(tmp_path / "keys")
    (first,) = keys.of(KEEP)
    second, left = keys.rotate(KEEP)
    assert left == first != second
    assert keys.of(KEEP) == (second, first)


def test_a_removed_keep_leaves_no_key(tmp_path: Path) -> None:
    keys = SealingKeys(tmp_path / "keys")
    before = keys.of(KEEP)
    keys.remove(KEEP)
    keys.remove(KEEP)
    assert list((tmp_path / "keys").iterdir()) == []
    assert keys.of(KEEP) != before


@pytest.mark.parametrize("content", [b"", b"AAAA\n", b"\xff\n", b"?" * 44, b"A" * 43 + b"=\nx\n"])
def test_a_damaged_file_is_refused_and_never_replaced(tmp_path: Path, content: bytes) -> None:
    keys = SealingKeys(tmp_path)
    (tmp_path / KEEP).write_bytes(content)
    with pytest.raises(SealingKeyError, match="holds no keys"):
        keys.of(KEEP)
    assert (tmp_path / KEEP).read_bytes() == content


@pytest.mark.parametrize("keep", ["", "..", "../pki", "0123456789ABCDEF"])
def test_only_ids_of_keeps_have_keys(tmp_path: Path, keep: str) -> None:
    with pytest.raises(SealingKeyError, match="no id"):
        SealingKeys(tmp_path).of(keep)
