"""Reports from /dev/sev-guest, against a fake that holds requests to the driver's layout byte by byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from app_loader.attesters import configfs_tsm, sev_guest
from app_loader.attesters.interface import Statement
from app_loader.attesters.selection import find_attester
from app_loader.attesters.sev_guest import SevGuestAttester
from app_loader.errors import AttesterError
from keep_attestation.ratls.collection import decode_endorsements
from keep_attestation.snp.report import parse_report
from keep_protocol.evidence import EvidenceKind, report_data
from tests.unit.app_loader.attesters.fake_sev_guest import FakeSevGuest
from tests.unit.app_loader.attesters.vectors import vector

STATEMENT = Statement(claims=b"claims", spki=b"key", nonce=None)
REPORT = bytes(range(256)) * 4 + bytes(160)
BUSY = 2
assert len(REPORT) == 1184


def test_a_report_is_asked_for_over_the_64_bytes_of_report_data_at_vmpl_0() -> None:
    device = FakeSevGuest(REPORT)
    made = SevGuestAttester(device).attest(STATEMENT)
    assert device.asked == [(report_data(b"claims"), 0)]
    assert made == (REPORT, None, None)


def test_a_real_report_and_its_certificates_reach_the_verifiers_parsers() -> None:
    device = FakeSevGuest(
        vector("snp/milan-v3-dstack/report.bin"), vector("snp/milan-v3-dstack/auxblob_cert_table.bin")
    )
    made = SevGuestAttester(device).attest(STATEMENT)
    assert parse_report(made.evidence).version == 3
    assert made.endorsements is not None
    certificates = decode_endorsements(made.endorsements).certificates
    assert set(certificates) == {vector(f"snp/milan-v3-dstack/{name}.der") for name in ("vcek", "ask", "ark")}


def test_a_host_that_is_busy_is_asked_again() -> None:
    device = FakeSevGuest(REPORT, faults=iter([(BUSY, 0), (BUSY, 0)]))
    assert SevGuestAttester(device).attest(STATEMENT).evidence == REPORT
    assert device.asked == [(report_data(b"claims"), 0)] * 3


def test_a_host_that_stays_busy_is_given_up() -> None:
    device = FakeSevGuest(REPORT, faults=iter([(BUSY, 0)] * 5))
    with pytest.raises(AttesterError, match="stayed busy"):
        SevGuestAttester(device).attest(STATEMENT)
    assert len(device.asked) == 5


def test_an_error_of_the_firmware_is_told_with_its_number() -> None:
    device = FakeSevGuest(REPORT, faults=iter([(0, 0x16)]))
    with pytest.raises(AttesterError, match=r"Input/output error \(firmware and host say 0x16\)"):
        SevGuestAttester(device).attest(STATEMENT)
    assert len(device.asked) == 1


def test_a_table_that_the_kernel_hands_on_just_so_is_read() -> None:
    table = bytes(24) + b"\1" * (0x4000 - 24)
    assert SevGuestAttester(FakeSevGuest(REPORT, table)).attest(STATEMENT).endorsements is not None


def test_a_table_that_does_not_fit_is_said_to_be_the_hosts_fault() -> None:
    with pytest.raises(AttesterError, match="certificate table is larger than 16384 bytes"):
        SevGuestAttester(FakeSevGuest(REPORT, b"\1" * 0x4001)).attest(STATEMENT)


def test_a_report_that_the_firmware_did_not_make_is_none() -> None:
    with pytest.raises(AttesterError, match="status 0x27, 1184 bytes"):
        SevGuestAttester(FakeSevGuest(REPORT, status=0x27)).attest(STATEMENT)


@pytest.mark.parametrize("size", [0, 1183, 1185, 3968])
def test_a_report_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(AttesterError, match=f"status 0x0, {size} bytes"):
        SevGuestAttester(FakeSevGuest(bytes(size))).attest(STATEMENT)


def test_a_device_that_is_something_else_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sev_guest, "DEVICE", Path("/dev/null"))
    with pytest.raises(AttesterError, match="/dev/null: Inappropriate ioctl for device"):
        SevGuestAttester().attest(STATEMENT)


def test_a_machine_without_the_device_is_no_snp_guest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sev_guest, "DEVICE", tmp_path / "sev-guest")
    with pytest.raises(AttesterError, match="no SNP guest, or its driver is not loaded"):
        SevGuestAttester()


def test_the_device_stands_in_where_the_kernel_has_no_configfs_tsm(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(configfs_tsm.ConfigfsAttester.__init__, "__defaults__", (tmp_path / "missing",))
    monkeypatch.setattr(sev_guest, "DEVICE", Path("/dev/null"))
    assert isinstance(find_attester(EvidenceKind.SNP, {}), SevGuestAttester)
    with pytest.raises(AttesterError, match="configfs is not mounted"):
        find_attester(EvidenceKind.TDX, {})


def test_a_machine_without_either_is_told_of_both(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(configfs_tsm.ConfigfsAttester.__init__, "__defaults__", (tmp_path / "missing",))
    monkeypatch.setattr(sev_guest, "DEVICE", tmp_path / "sev-guest")
    with pytest.raises(AttesterError, match=r"configfs is not mounted.*this is no SNP guest"):
        find_attester(EvidenceKind.SNP, {})
