"""Keys by SNP's firmware, against a kernel interface that answers as a chip would."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import struct

import pytest

from app_loader.sealing.errors import SealingError, SealingUnavailableError, SelectorError, UnknownKeyError, UnsealError
from app_loader.sealing.root_keys import KeyRing
from app_loader.sealing.sealer import Sealer
from app_loader.sealing.snp_key import DEVICE, SNP_GET_DERIVED_KEY, SnpDerivedKey
from keep_protocol.sealing_api import KeyKind, Selector

KEEP = "0123456789abcdef"
MEASUREMENT = 1 << 3


class Firmware:
    """One guest on one chip: derives keys from what MSG_KEY_REQ selects, as the ABI says."""

    def __init__(
        self,
        *,
        chip: bytes = b"chip",
        vlek: bytes | None = b"fleet",
        measurement: bytes = b"code",
        policy: bytes = b"p",
    ) -> None:
        self.chip, self.vlek, self.measurement, self.policy = chip, vlek, measurement, policy
        self.busy = 0
        self.status = 0
        self.requests: list[tuple[int, ...]] = []

    def __call__(self, number: int, envelope: bytearray) -> None:
        assert number == SNP_GET_DERIVED_KEY
        version, request, response, _ = struct.unpack("<B7xQQQ", envelope)
        assert version == 1
        if self.busy:
            self.busy -= 1
            struct.pack_into("<Q", envelope, 24, 2 << 32)
            raise OSError(errno.EIO, "Input/output error")
        fields = struct.unpack("<IIQIIQ", ctypes.string_at(request, 32))
        self.requests.append(fields)
        root_select, reserved, selected, _, _, _ = fields
        assert reserved == 0
        root = {1: self.chip, 2: self.vlek}[root_select >> 1]
        if root is None:
            ctypes.memmove(response, struct.pack("<I", 0x27), 4)
            return
        mixed = (self.policy if selected & 1 else b"") + b"|" + (self.measurement if selected & MEASUREMENT else b"")
        derived = hashlib.sha256(root + b"|" + mixed).digest()
        ctypes.memmove(response, struct.pack("<I28x", self.status) + derived, 64)


SPEC = bytes(range(32))


def sealer(firmware: Firmware, keep: str = KEEP, spec: bytes = SPEC) -> Sealer:
    return Sealer(KeyRing([SnpDerivedKey(keep, spec, firmware)]))


def test_the_same_guest_opens_what_it_sealed() -> None:
    firmware = Firmware()
    sealed, header = sealer(firmware).seal(b"data", purpose="p")
    key = header.key
    assert key.kind is KeyKind.SNP
    assert set(key.selectors) == {Selector.CHIP, Selector.MEASUREMENT, Selector.KEEP}
    assert sealer(Firmware()).unseal(sealed, allow_rollback=True)[0] == b"data"


def test_the_guests_policy_is_always_mixed_in_and_svn_and_tcb_never() -> None:
    firmware = Firmware()
    sealer(firmware).seal(b"data", purpose="p", bind=(Selector.KEEP,))
    sealer(firmware).seal(b"data", purpose="p", bind=(Selector.MEASUREMENT, Selector.CHIP))
    assert all(fields & 1 and not fields & ~0b1001 for _, _, fields, *_ in firmware.requests)
    assert all((vmpl, svn, tcb) == (0, 0, 0) for _, _, _, vmpl, svn, tcb in firmware.requests)


def test_another_chip_is_another_key() -> None:
    sealed, _ = sealer(Firmware()).seal(b"data", purpose="p")
    with pytest.raises(UnknownKeyError):
        sealer(Firmware(chip=b"other")).unseal(sealed, allow_rollback=True)


def test_other_code_does_not_open_what_is_bound_to_the_measurement() -> None:
    sealed, _ = sealer(Firmware()).seal(b"data", purpose="p")
    with pytest.raises(UnsealError, match="measurement"):
        sealer(Firmware(measurement=b"other")).unseal(sealed, allow_rollback=True)
    loose, _ = sealer(Firmware()).seal(b"data", purpose="p", bind=(Selector.CHIP,))
    assert sealer(Firmware(measurement=b"other")).unseal(loose, allow_rollback=True)[0] == b"data"


def test_another_keep_on_the_same_chip_opens_only_what_is_not_bound_to_the_keep() -> None:
    sealed, _ = sealer(Firmware()).seal(b"data", purpose="p")
    with pytest.raises(UnsealError, match="keep"):
        sealer(Firmware(), "f" * 16).unseal(sealed, allow_rollback=True)
    shared, _ = sealer(Firmware()).seal(b"data", purpose="p", bind=(Selector.CHIP, Selector.MEASUREMENT))
    assert sealer(Firmware(), "f" * 16).unseal(shared, allow_rollback=True)[0] == b"data"


def test_what_is_not_bound_to_the_chip_comes_from_the_providers_key_or_not_at_all() -> None:
    firmware = Firmware()
    sealer(firmware).seal(b"data", purpose="p", bind=(Selector.MEASUREMENT,))
    assert firmware.requests[-1][0] == 2 << 1
    with pytest.raises(SealingError, match="status 0x27"):
        sealer(Firmware(vlek=None)).seal(b"data", purpose="p", bind=(Selector.MEASUREMENT,))


def test_it_cannot_be_bound_to_a_signer() -> None:
    with pytest.raises(SelectorError, match="signer"):
        sealer(Firmware()).seal(b"data", purpose="p", bind=(Selector.SIGNER,))


def test_the_same_guest_under_another_spec_opens_nothing() -> None:
    firmware = Firmware()
    sealed, _ = sealer(firmware).seal(b"the owner's", purpose="p")
    # The host chooses id and spec, and names whom it likes as owner in another one.
    with pytest.raises(SealingError):
        sealer(firmware, spec=bytes(32)).unseal(sealed, allow_rollback=True)


def test_a_busy_host_is_asked_again_and_not_for_ever() -> None:
    firmware = Firmware()
    firmware.busy = 4
    SnpDerivedKey(KEEP, SPEC, firmware)
    firmware.busy = 5
    with pytest.raises(SealingError, match="busy"):
        SnpDerivedKey(KEEP, SPEC, firmware)


def test_a_firmware_that_refuses_is_quoted() -> None:
    firmware = Firmware()
    firmware.status = 0x16
    with pytest.raises(SealingError, match="status 0x16"):
        SnpDerivedKey(KEEP, SPEC, firmware)

    def broken(number: int, envelope: bytearray) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    with pytest.raises(SealingError, match="Operation not permitted"):
        SnpDerivedKey(KEEP, SPEC, broken)


def test_a_key_of_nothing_but_zeros_is_none() -> None:
    with pytest.raises(SealingError, match="derived no key"):
        SnpDerivedKey(KEEP, SPEC, lambda number, envelope: None)


@pytest.mark.skipif(DEVICE.exists(), reason="this is an SNP guest")
def test_a_machine_without_the_device_says_so() -> None:
    with pytest.raises(SealingUnavailableError, match="/dev/sev-guest"):
        SnpDerivedKey(KEEP, SPEC)
