"""A spec is tied to what the machine was launched for: by a real software TPM, and by reports of a faked kernel."""

from __future__ import annotations

import fcntl
import hashlib
from pathlib import Path
from typing import Any

import cbor2
import pytest

from app_loader.attesters import nsm
from app_loader.attesters.interface import Attestation, Statement
from app_loader.attesters.tpm_commands import Tpm
from app_loader.attesters.tpm_transport import SocketTransport
from app_loader.attesters.tpm_wire import Algorithm
from keep_guest import binding
from keep_guest.errors import BindingError
from keep_image.measurement import nitro
from keep_protocol.evidence import EvidenceKind
from keep_protocol.guest_control import ENCLAVE_SPEC_PCR, SPEC_PCR
from tests.swtpm import running_swtpm
from tests.unit.app_loader.attesters.fake_nsm import FakeNsm

DIGEST = hashlib.sha256(b"spec").hexdigest()
OTHER = hashlib.sha256(b"another spec").hexdigest()


class FakeAttester:
    """The kernel's report interface, at the seam where the app-loader asks it."""

    def __init__(self, kind: EvidenceKind, report: bytes) -> None:
        self.kind = kind
        self._report = report

    def attest(self, statement: Statement) -> Attestation:
        return Attestation(self._report)


LAYOUTS = [(EvidenceKind.SNP, 2), (EvidenceKind.TDX, 4), (EvidenceKind.TDX, 5)]
"""Kinds, with the version that their evidence begins with."""


def launched_for(kind: EvidenceKind, version: int, digest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the kernel say that this machine was launched for the spec with this digest."""
    place, size = {(EvidenceKind.SNP, 2): (0xC0, 32), (EvidenceKind.TDX, 4): (232, 48)}.get((kind, version), (238, 48))
    report = bytearray(1184)
    report[0] = version
    report[place : place + size] = bytes.fromhex(digest).ljust(size, b"\0")
    monkeypatch.setattr(binding, "find_attester", lambda asked, devices: FakeAttester(asked, bytes(report)))


@pytest.mark.parametrize(("kind", "version"), LAYOUTS)
def test_a_machine_serves_the_spec_that_it_was_launched_for_alone(
    kind: EvidenceKind, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched_for(kind, version, DIGEST, monkeypatch)
    binding.check_launch(kind, DIGEST)
    with pytest.raises(BindingError, match=f"launched for the spec {DIGEST}.*hands over {OTHER}"):
        binding.check_launch(kind, OTHER)


@pytest.mark.parametrize(("kind", "version"), LAYOUTS)
def test_a_machine_that_was_launched_for_no_spec_serves_none(
    kind: EvidenceKind, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched_for(kind, version, "00" * 32, monkeypatch)
    with pytest.raises(BindingError, match="launched for the spec 0000"):
        binding.check_launch(kind, DIGEST)


def test_a_machine_whose_hardware_says_nothing_serves_nothing() -> None:
    with pytest.raises(BindingError, match="does not say what the machine was launched with"):
        binding.check_launch(EvidenceKind.TDX, DIGEST)


def test_the_specs_digest_is_extended_into_its_pcr(monkeypatch: pytest.MonkeyPatch) -> None:
    with running_swtpm() as path:
        monkeypatch.setattr(binding, "DeviceTransport", SocketTransport)
        assert binding.extend_spec(DIGEST, path)
        with Tpm(SocketTransport(str(path))) as tpm:
            values = tpm.read_pcrs(Algorithm.SHA256, [SPEC_PCR])
    assert values[SPEC_PCR] == hashlib.sha256(bytes(32) + bytes.fromhex(DIGEST)).digest()


class FakeEnclave:
    """The PCRs of a Nitro module, which begin with zeros; a locked one changes no more."""

    def __init__(self) -> None:
        self.pcrs: dict[int, bytes] = {}
        self.locked: set[int] = set()

    def __call__(self, request: Any) -> bytes:
        ((asked, members),) = request.items()
        index = members["index"]
        if index in self.locked:
            return bytes(cbor2.dumps({"Error": "ReadOnlyIndex"}))
        if asked == "LockPCR":
            self.locked.add(index)
            return bytes(cbor2.dumps("LockPCR"))
        assert asked == "ExtendPCR"
        self.pcrs[index] = hashlib.sha384(self.pcrs.get(index, bytes(48)) + members["data"]).digest()
        return bytes(cbor2.dumps({"ExtendPCR": {"data": self.pcrs[index]}}))


@pytest.fixture
def enclave(monkeypatch: pytest.MonkeyPatch) -> FakeEnclave:
    enclave = FakeEnclave()
    monkeypatch.setattr(nsm, "DEVICE", Path("/dev/null"))
    monkeypatch.setattr(fcntl, "ioctl", FakeNsm(enclave))
    return enclave


def test_the_specs_digest_is_locked_into_an_enclaves_pcr_as_it_is_predicted(enclave: FakeEnclave) -> None:
    binding.extend_spec_in_enclave(DIGEST)
    predicted = nitro.predict_pcrs(b"kernel", b"initrd", "line", DIGEST)
    assert enclave.pcrs == {ENCLAVE_SPEC_PCR: predicted[ENCLAVE_SPEC_PCR]}
    assert enclave.locked == {ENCLAVE_SPEC_PCR}


def test_an_enclave_that_has_a_spec_takes_no_other(enclave: FakeEnclave) -> None:
    binding.extend_spec_in_enclave(DIGEST)
    before = dict(enclave.pcrs)
    with pytest.raises(BindingError, match=r"does not take the spec's digest: .*PCR 16.*ReadOnlyIndex"):
        binding.extend_spec_in_enclave(OTHER)
    assert enclave.pcrs == before


def test_a_machine_that_is_no_enclave_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(nsm, "DEVICE", tmp_path / "nsm")
    with pytest.raises(BindingError, match="nsm: No such file"):
        binding.extend_spec_in_enclave(DIGEST)


def test_a_machine_without_a_tpm_extends_nothing(tmp_path: Path) -> None:
    assert not binding.extend_spec(DIGEST, tmp_path / "tpmrm0")


def test_a_tpm_that_fails_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "tpmrm0").write_bytes(b"")
    with pytest.raises(BindingError, match="does not take the spec's digest"):
        binding.extend_spec(DIGEST, tmp_path / "tpmrm0")
