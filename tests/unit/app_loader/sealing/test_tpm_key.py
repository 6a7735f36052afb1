"""Keys sealed by a real software TPM: the same after a restart, gone when the machine boots differently."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from app_loader.attesters.tpm_commands import Tpm
from app_loader.attesters.tpm_transport import SocketTransport
from app_loader.attesters.tpm_wire import Algorithm
from app_loader.sealing.errors import SealingError, SelectorError, UnknownKeyError
from app_loader.sealing.root_keys import KeyRing
from app_loader.sealing.sealer import Sealer
from app_loader.sealing.tpm_key import MACHINE_REGISTERS, TpmSealedKey
from keep_protocol.sealing_api import KeyKind, Selector
from tests.swtpm import running_swtpm

KEEP = "0123456789abcdef"


@pytest.fixture
def tpm() -> Iterator[Tpm]:
    with running_swtpm() as path, Tpm(SocketTransport(str(path))) as tpm:
        yield tpm


def sealer(tpm: Tpm, state: Path, keep: str = KEEP) -> Sealer:
    return Sealer(KeyRing([TpmSealedKey(tpm, state, keep)]))


def test_the_key_is_the_same_after_a_restart_and_never_on_disk(tpm: Tpm, tmp_path: Path) -> None:
    sealed, header = sealer(tpm, tmp_path).seal(b"data", purpose="p")
    key = header.key
    assert (key.kind, key.selectors) == (KeyKind.TPM, (Selector.CHIP, Selector.KEEP, Selector.MEASUREMENT))
    # More often than a TPM has room for objects: none may be left behind.
    for _ in range(5):
        assert sealer(tpm, tmp_path).unseal(sealed, allow_rollback=True)[0] == b"data"
    secret = TpmSealedKey(tpm, tmp_path, KEEP).derive(key.selectors)
    (file,) = tmp_path.iterdir()
    assert secret not in file.read_bytes()


def test_a_machine_that_boots_differently_does_not_get_the_key(tpm: Tpm, tmp_path: Path) -> None:
    TpmSealedKey(tpm, tmp_path, KEEP)
    tpm.extend_pcr(12, {Algorithm.SHA256: hashlib.sha256(b"software").digest()})
    TpmSealedKey(tpm, tmp_path, KEEP)
    tpm.extend_pcr(4, {Algorithm.SHA256: hashlib.sha256(b"another boot loader").digest()})
    before = [file.read_bytes() for file in tmp_path.iterdir()]
    with pytest.raises(SealingError, match="registers change with firmware"):
        TpmSealedKey(tpm, tmp_path, KEEP)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == before


@pytest.mark.parametrize("register", [4, 9, 11])
def test_a_virtual_machine_of_another_image_or_spec_does_not_get_the_key(
    tpm: Tpm, tmp_path: Path, register: int
) -> None:
    TpmSealedKey(tpm, tmp_path, KEEP, MACHINE_REGISTERS)
    # Its firmware says more of the host than of the machine.
    tpm.extend_pcr(0, {Algorithm.SHA256: hashlib.sha256(b"more memory").digest()})
    TpmSealedKey(tpm, tmp_path, KEEP, MACHINE_REGISTERS)
    tpm.extend_pcr(register, {Algorithm.SHA256: hashlib.sha256(b"another").digest()})
    with pytest.raises(SealingError, match="registers change with the image and the spec"):
        TpmSealedKey(tpm, tmp_path, KEEP, MACHINE_REGISTERS)


def test_another_tpm_and_another_keep_have_other_keys(tpm: Tpm, tmp_path: Path) -> None:
    sealed, _ = sealer(tpm, tmp_path).seal(b"data", purpose="p")
    with pytest.raises(UnknownKeyError):
        sealer(tpm, tmp_path, "f" * 16).unseal(sealed, allow_rollback=True)
    with running_swtpm() as path, Tpm(SocketTransport(str(path))) as other, pytest.raises(SealingError):
        TpmSealedKey(other, tmp_path, KEEP)


def test_it_is_bound_to_all_that_it_can_be_and_to_nothing_else(tpm: Tpm, tmp_path: Path) -> None:
    key = sealer(tpm, tmp_path)
    with pytest.raises(SelectorError, match="signer"):
        key.seal(b"data", purpose="p", bind=(Selector.SIGNER,))
    with pytest.raises(SealingError, match="always bound to all"):
        key.seal(b"data", purpose="p", bind=(Selector.KEEP,))


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"private": "AAAA", "public": "AAAA"}'])
def test_a_damaged_file_is_said_and_never_replaced(tpm: Tpm, tmp_path: Path, content: bytes) -> None:
    TpmSealedKey(tpm, tmp_path, KEEP)
    (file,) = tmp_path.iterdir()
    file.write_bytes(content)
    with pytest.raises(SealingError):
        TpmSealedKey(tpm, tmp_path, KEEP)
    assert file.read_bytes() == content
