"""Reports by configfs-tsm, against a fake that makes and removes attributes as the kernel does."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest

from app_loader.attesters.configfs_tsm import ConfigfsAttester
from app_loader.attesters.interface import Statement
from app_loader.errors import AttesterError
from keep_attestation.intel.quote import parse_quote
from keep_attestation.ratls.collection import decode_endorsements
from keep_attestation.snp.report import parse_report
from keep_protocol.evidence import EvidenceKind, report_data
from tests.unit.app_loader.attesters.fake_configfs import FakeKernel, fake_reports
from tests.unit.app_loader.attesters.vectors import vector

TABLE_TO_NOWHERE = UUID("63da758d-e664-4564-adc5-f4b93be8accd").bytes + b"\xff" * 8
STATEMENT = Statement(claims=b"claims", spki=b"key", nonce=None)


def attester(folder: Path, kernel: FakeKernel, kind: EvidenceKind = EvidenceKind.SNP) -> ConfigfsAttester:
    return ConfigfsAttester(kind, fake_reports(kernel, folder))


def test_a_report_is_made_over_the_64_bytes_of_report_data(tmp_path: Path) -> None:
    kernel = FakeKernel()
    made = attester(tmp_path, kernel).attest(STATEMENT)
    assert kernel.requests == [report_data(b"claims")]
    assert len(kernel.requests[0]) == 64
    assert made == (b"report over " + report_data(b"claims"), None, None)


def test_nothing_is_left_in_configfs(tmp_path: Path) -> None:
    made_by = attester(tmp_path, FakeKernel())
    made_by.attest(STATEMENT)
    made_by.attest(STATEMENT)
    assert list(tmp_path.iterdir()) == []


def test_every_report_has_a_folder_of_its_own(tmp_path: Path) -> None:
    folders: list[str] = []
    kernel = FakeKernel(interfere=lambda folder: folders.append(folder.name))
    made_by = attester(tmp_path, kernel)
    made_by.attest(STATEMENT)
    made_by.attest(STATEMENT)
    assert len(set(folders)) == 2


def test_an_snp_report_comes_with_the_certificates_of_the_hosts_table(tmp_path: Path) -> None:
    table = vector("snp/milan-v3-dstack/auxblob_cert_table.bin")
    kernel = FakeKernel(report=lambda _: vector("snp/milan-v3-dstack/report.bin"), auxblob=table)
    made = attester(tmp_path, kernel).attest(STATEMENT)
    assert parse_report(made.evidence).signed == vector("snp/milan-v3-dstack/report.bin")[:0x2A0]
    assert made.endorsements is not None
    certificates = decode_endorsements(made.endorsements).certificates
    assert set(certificates) == {vector(f"snp/milan-v3-dstack/{name}.der") for name in ("vcek", "ask", "ark")}


def test_a_table_of_zeros_means_that_the_host_gave_no_certificates(tmp_path: Path) -> None:
    assert attester(tmp_path, FakeKernel(auxblob=bytes(4096))).attest(STATEMENT).endorsements is None


def test_a_tdx_quote_is_the_whole_outblob_and_needs_no_auxblob(tmp_path: Path) -> None:
    quote = vector("tdx/v4-phala-uptodate/quote.bin")
    kernel = FakeKernel(provider="tdx_guest", report=lambda _: quote, auxblob=None)
    made = attester(tmp_path, kernel, EvidenceKind.TDX).attest(STATEMENT)
    parse_quote(made.evidence)
    assert made == (quote, None, None)


@pytest.mark.parametrize("size", [1, 65535, 65536])
def test_reports_are_read_whole_whatever_their_size(tmp_path: Path, size: int) -> None:
    kernel = FakeKernel(report=lambda _: bytes(size))
    assert len(attester(tmp_path, kernel).attest(STATEMENT).evidence) == size


def test_a_report_without_an_end_is_refused(tmp_path: Path) -> None:
    kernel = FakeKernel(report=lambda _: bytes(64 * 1024 + 1))
    with pytest.raises(AttesterError, match="outblob has more than 65536 bytes"):
        attester(tmp_path, kernel).attest(STATEMENT)
    assert list(tmp_path.iterdir()) == []


def test_a_report_that_somebody_else_asked_for_meanwhile_is_made_again(tmp_path: Path) -> None:
    interfered: list[Path] = []

    def interfere(folder: Path) -> None:
        if not interfered:
            interfered.append(folder)
            (folder / "inblob").write_bytes(b"of somebody else")

    kernel = FakeKernel(interfere=interfere)
    made = attester(tmp_path, kernel).attest(STATEMENT)
    assert made.evidence == b"report over " + report_data(b"claims")
    assert kernel.requests == [report_data(b"claims"), b"of somebody else", report_data(b"claims")]


def test_reports_that_change_all_the_time_are_given_up(tmp_path: Path) -> None:
    def interfere(folder: Path) -> None:
        (folder / "inblob").write_bytes(b"of somebody else")

    kernel = FakeKernel(interfere=interfere)
    with pytest.raises(AttesterError, match="changed while it was read"):
        attester(tmp_path, kernel).attest(STATEMENT)
    assert list(tmp_path.iterdir()) == []


def test_what_the_kernel_did_not_take_makes_no_report(tmp_path: Path) -> None:
    # configfs swallows what a driver says at the close of a binary attribute.
    class Refusing(Statement):
        @property
        def report_data(self) -> bytes:
            return bytes(65)

    with pytest.raises(AttesterError, match="outblob cannot be read: Invalid argument"):
        attester(tmp_path, FakeKernel()).attest(Refusing(b"", b"", None))


def test_a_kernel_without_a_provider_says_so(tmp_path: Path) -> None:
    with pytest.raises(AttesterError, match="no provider of reports is loaded"):
        attester(tmp_path, FakeKernel(provider=None))


def test_a_provider_that_goes_away_is_noticed_at_the_next_report(tmp_path: Path) -> None:
    kernel = FakeKernel()
    made_by = attester(tmp_path, kernel)
    kernel.provider = None
    with pytest.raises(AttesterError, match="no provider of reports is loaded"):
        made_by.attest(STATEMENT)


@pytest.mark.parametrize(
    ("kind", "provider"),
    [
        (EvidenceKind.SNP, "tdx_guest"),
        (EvidenceKind.TDX, "sev_guest"),
        (EvidenceKind.SNP, "arm_cca_guest"),
    ],
)
def test_the_provider_of_another_kind_is_refused_by_name(tmp_path: Path, kind: EvidenceKind, provider: str) -> None:
    with pytest.raises(AttesterError, match=f"by '{provider}'"):
        attester(tmp_path, FakeKernel(provider=provider), kind)
    assert list(tmp_path.iterdir()) == []


def test_a_machine_without_configfs_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(AttesterError, match="configfs is not mounted, or the kernel is older than"):
        ConfigfsAttester(EvidenceKind.SNP, tmp_path / "missing")


def test_a_table_that_is_none_is_no_reason_to_invent_certificates(tmp_path: Path) -> None:
    with pytest.raises(AttesterError, match="points behind its end"):
        attester(tmp_path, FakeKernel(auxblob=TABLE_TO_NOWHERE)).attest(STATEMENT)
