"""A keep's keys at work: which key opens what, and what is too old."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import msgspec
import pytest

from app_loader.sealing.errors import (
    PurposeError,
    RollbackError,
    SealingError,
    SealingUnavailableError,
    SelectorError,
    UnknownKeyError,
)
from app_loader.sealing.host_key import HostKey, read_share
from app_loader.sealing.root_keys import KeyRing
from app_loader.sealing.sealer import Sealer
from app_loader.sealing.selection import find_sealer
from app_loader.sealing.snp_key import DEVICE
from keep_protocol.evidence import EvidenceKind
from keep_protocol.sealing_api import KeyKind, Selector
from keep_protocol.states import Backend
from tests.unit.app_loader.execution_harness import spec

KEEP = "0123456789abcdef"
DATA = b"the data"


def host_key(*, keep: str = KEEP, handed_over: bytes = bytes(32), share: bytes = bytes(32)) -> HostKey:
    return HostKey(handed_over, share, keep)


def sealer(*keys: HostKey) -> Sealer:
    return Sealer(KeyRing(keys or (host_key(),)))


def test_a_host_key_is_named_as_what_it_is_wherever_it_shows() -> None:
    sealed, written = sealer().seal(DATA, purpose="p")
    key = written.key
    _, header, _ = sealer().unseal(sealed, allow_rollback=True)
    assert (key.kind, key.selectors) == (KeyKind.HOST, (Selector.KEEP,))
    assert header.key == key
    assert b'"kind":"host"' in sealed


def test_another_keep_does_not_open_it() -> None:
    sealed, _ = sealer().seal(DATA, purpose="p")
    with pytest.raises(UnknownKeyError, match=f"host {host_key().id} is not one of this keep's"):
        sealer(host_key(keep="f" * 16)).unseal(sealed, allow_rollback=True)


def test_neither_half_of_a_host_key_opens_anything_alone() -> None:
    sealed, _ = sealer().seal(DATA, purpose="p")
    for other in (host_key(handed_over=b"x" * 32), host_key(share=b"x" * 32)):
        with pytest.raises(UnknownKeyError):
            sealer(other).unseal(sealed, allow_rollback=True)


def test_a_rotated_key_still_opens_and_the_new_one_seals() -> None:
    old, new = host_key(), host_key(handed_over=b"n" * 32)
    sealed, _ = sealer(old).seal(DATA, purpose="p")
    both = sealer(new, old)
    assert both.unseal(sealed, allow_rollback=True)[0] == DATA
    again, header = both.seal(DATA, purpose="p")
    assert header.key.id == new.id != old.id
    with pytest.raises(UnknownKeyError):
        sealer(old).unseal(again, allow_rollback=True)


def test_the_purpose_is_demanded() -> None:
    sealed, _ = sealer().seal(DATA, purpose="this")
    assert sealer().unseal(sealed, purpose="this", allow_rollback=True)[0] == DATA
    with pytest.raises(PurposeError, match="'this', not for 'that'"):
        sealer().unseal(sealed, purpose="that", allow_rollback=True)


@pytest.mark.parametrize("counter", [None, 5])
def test_without_a_counter_nothing_is_unsealed_unless_any_age_will_do(counter: int | None) -> None:
    sealed, _ = sealer().seal(DATA, purpose="p", counter=counter)
    with pytest.raises(RollbackError, match="allow_rollback"):
        sealer().unseal(sealed)
    data, header, protected = sealer().unseal(sealed, allow_rollback=True)
    assert (data, header.counter, protected) == (DATA, counter, False)


@pytest.mark.parametrize("allow_rollback", [False, True])
def test_a_counter_below_the_expected_one_is_refused_whatever_else_is_allowed(allow_rollback: bool) -> None:
    sealed, _ = sealer().seal(DATA, purpose="p", counter=5)
    for expected in (0, 4, 5):
        data, _, protected = sealer().unseal(sealed, expected_counter=expected, allow_rollback=allow_rollback)
        assert (data, protected) == (DATA, True)
    with pytest.raises(RollbackError, match="counter is 5, and 6"):
        sealer().unseal(sealed, expected_counter=6, allow_rollback=allow_rollback)
    uncounted, _ = sealer().seal(DATA, purpose="p")
    with pytest.raises(RollbackError, match="no counter"):
        sealer().unseal(uncounted, expected_counter=0, allow_rollback=allow_rollback)


@pytest.mark.parametrize("selector", [Selector.MEASUREMENT, Selector.SIGNER, Selector.CHIP])
def test_a_host_key_does_not_pretend_to_be_bound_to_hardware(selector: Selector) -> None:
    with pytest.raises(SelectorError, match=f"cannot be bound to {selector}"):
        sealer().seal(DATA, purpose="p", bind=(selector,))


def test_the_halves_of_a_key_have_32_bytes() -> None:
    for wrong in (b"", bytes(31), bytes(33)):
        with pytest.raises(SealingError):
            host_key(handed_over=wrong)
        with pytest.raises(SealingError):
            host_key(share=wrong)


class TestShare:
    def test_it_is_made_once_and_only_for_the_keep_to_read(self, tmp_path: Path) -> None:
        share = read_share(tmp_path)
        assert len(share) == 32
        assert read_share(tmp_path) == share
        (file,) = tmp_path.iterdir()
        assert file.stat().st_mode & 0o777 == 0o600

    def test_a_damaged_one_is_said_and_never_replaced(self, tmp_path: Path) -> None:
        read_share(tmp_path)
        (file,) = tmp_path.iterdir()
        file.write_bytes(b"short")
        with pytest.raises(SealingError, match="damaged"):
            read_share(tmp_path)
        assert file.read_bytes() == b"short"


class TestSelection:
    def test_a_process_keep_seals_with_what_its_host_handed_over(self, tmp_path: Path) -> None:
        keys = [base64.b64encode(os.urandom(32)).decode() for _ in range(2)]
        old = find_sealer(spec(), KEEP, tmp_path, keys[1:])
        sealed, header = old.seal(DATA, purpose="p")
        assert header.key.kind is KeyKind.HOST
        assert find_sealer(spec(), KEEP, tmp_path, keys).unseal(sealed, allow_rollback=True)[0] == DATA

    def test_without_a_key_nothing_is_sealed(self, tmp_path: Path) -> None:
        with pytest.raises(SealingUnavailableError):
            find_sealer(spec(), KEEP, tmp_path, ())
        with pytest.raises(SealingUnavailableError):
            KeyRing(()).newest()

    @pytest.mark.skipif(DEVICE.exists(), reason="this is an SNP guest")
    @pytest.mark.parametrize(
        ("backend", "evidence", "words"),
        [
            (Backend.SNP, EvidenceKind.SNP, "/dev/sev-guest"),
            (Backend.TDX, EvidenceKind.TDX, "tdx keep gives its guests no key"),
            (Backend.NITRO, EvidenceKind.NITRO, "nitro keep gives its guests no key"),
            (Backend.PROCESS, EvidenceKind.TPM, "no TPM"),
        ],
    )
    def test_a_keep_that_proves_itself_by_hardware_never_falls_back_to_its_hosts_key(
        self, tmp_path: Path, backend: Backend, evidence: EvidenceKind, words: str
    ) -> None:
        on_hardware = msgspec.structs.replace(spec(), backend=backend, evidence=evidence)
        with pytest.raises(SealingUnavailableError, match=words):
            find_sealer(on_hardware, KEEP, tmp_path, [base64.b64encode(bytes(32)).decode()])

    @pytest.mark.parametrize("key", ["", "AAAA", "?", "A" * 44])
    def test_a_key_that_is_none_is_refused(self, tmp_path: Path, key: str) -> None:
        with pytest.raises(SealingError):
            find_sealer(spec(), KEEP, tmp_path, [key])
