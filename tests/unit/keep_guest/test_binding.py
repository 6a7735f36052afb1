"""A spec is tied to what the machine was launched for: by a real software TPM, and by reports of a faked kernel."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from app_loader.attesters.interface import Attestation, Statement
from app_loader.attesters.tpm_commands import Tpm
from app_loader.attesters.tpm_transport import SocketTransport
from app_loader.attesters.tpm_wire import Algorithm
from keep_guest import binding
from keep_guest.errors import BindingError
from keep_protocol.evidence import EvidenceKind
from keep_protocol.guest_control import SPEC_PCR
from tests.swtpm import running_swtpm

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


def test_a_machine_without_a_tpm_extends_nothing(tmp_path: Path) -> None:
    assert not binding.extend_spec(DIGEST, tmp_path / "tpmrm0")


def test_a_tpm_that_fails_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "tpmrm0").write_bytes(b"")
    with pytest.raises(BindingError, match="does not take the spec's digest"):
        binding.extend_spec(DIGEST, tmp_path / "tpmrm0")
