"""The same evidence as other tools and clouds store it, made with test keys: it is read as what it is, or refused."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from keep_attestation.certificates import read_certificates
from keep_attestation.errors import AttestationError
from keep_attestation.evidence import Evidence
from keep_attestation.evidence_files.content import Content
from keep_attestation.evidence_files.reading import EvidenceFile, read_evidence
from keep_attestation.evidence_files.recognition import recognise
from keep_attestation.ratls.presentation import Convention
from keep_attestation.snp.products import Product
from keep_attestation.snp.report import REPORT_SIZE
from keep_attestation.verdict import Outcome
from keep_protocol.evidence import EvidenceKind
from tests.unit.keep_attestation.intel.forge import NOW, Forge, Tee
from tests.unit.keep_attestation.intel.outcomes import examine, failures
from tests.unit.keep_attestation.ratls.makers import FakeKeep
from tests.unit.keep_attestation.snp.forge import FakeChip, fake_amd

VCEK_GUID = bytes.fromhex("63da758de6644564adc5f4b93be8accd")
ASK_GUID = bytes.fromhex("4ab7b379bbac4fe4a02f05aef327c782")


@pytest.fixture(scope="module")
def forge() -> Forge:
    return Forge()


@pytest.fixture(params=["tdx", "sgx"])
def tee(request: pytest.FixtureRequest) -> Tee:
    name: Tee = request.param
    return name


def certificate_table(*entries: tuple[bytes, bytes]) -> bytes:
    offset = 24 * (len(entries) + 1)
    head = b""
    for guid, der in entries:
        head += guid + offset.to_bytes(4, "little") + len(der).to_bytes(4, "little")
        offset += len(der)
    return head + bytes(24) + b"".join(der for _, der in entries)


def pem(*ders: bytes) -> str:
    blocks = (base64.encodebytes(der).decode() for der in ders)
    return "".join(f"-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n" for body in blocks)


def write(folder: Path, **files: bytes | str) -> Path:
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


class TestSnp:
    @pytest.fixture(params=list(Product))
    def chip(self, request: pytest.FixtureRequest) -> FakeChip:
        return fake_amd(request.param).vcek()

    @pytest.mark.parametrize("padding", [0, 2816])
    def test_a_report_as_the_device_gives_it_is_the_report(self, chip: FakeChip, tmp_path: Path, padding: int) -> None:
        report = chip.report()
        header = bytes(4) + len(report).to_bytes(4, "little") + bytes(24)
        file = read_evidence(write(tmp_path, response=header + report + bytes(padding)) / "response")
        assert (file.kind, file.evidence.body) == (EvidenceKind.SNP, report)

    def test_a_report_with_the_hosts_table_behind_it_brings_its_certificates(
        self, chip: FakeChip, tmp_path: Path
    ) -> None:
        report = chip.report()
        table = certificate_table((VCEK_GUID, chip.certificate), (ASK_GUID, b"\x30\x03\x02\x01\x01"))
        write(tmp_path, extended=report + table + bytes(4096), report__bin=report)
        # The same report twice is one piece of evidence.
        for path in (tmp_path, tmp_path / "extended"):
            file = read_evidence(path)
            assert file.evidence.body == report
        assert chip.certificate in file.evidence.endorsements.certificates
        cut = recognise(report + table)
        assert cut.content is Content.SNP_EXTENDED_REPORT
        with pytest.raises(AttestationError):
            recognise(report + b"\x01" + bytes(60))
        assert len(report) == REPORT_SIZE

    def test_certificates_come_in_files_of_any_name_and_as_one_chain(self, chip: FakeChip, tmp_path: Path) -> None:
        foreign = fake_amd(Product.MILAN).vcek(hardware_id=b"\x77" * 64).certificate
        chain = pem(chip.certificate)
        files: dict[str, bytes | str] = {"attestation.dat": chip.report(), "chain.txt": chain, "old.crt": foreign}
        write(tmp_path, **files)
        assert read_evidence(tmp_path).evidence.endorsements.certificates == (chip.certificate,)

    @pytest.mark.parametrize(
        "store",
        [
            lambda *ders: b"".join(ders),
            lambda *ders: base64.b64encode(b"".join(ders)),
            lambda *ders: pem(*reversed(ders)).encode(),
            lambda *ders: b"subject=CN = SEV-VCEK\nissuer=CN = SEV\n" + pem(*ders).encode(),
            lambda *ders: b"\xef\xbb\xbf" + pem(*ders).replace("\n", "\r\n").encode(),
        ],
        ids=["DER", "base64", "reversed", "text", "mark"],
    )
    def test_a_chain_in_one_file_is_read_however_it_was_put_together(
        self, chip: FakeChip, tmp_path: Path, store: Callable[..., bytes]
    ) -> None:
        (anchors,) = fake_amd(chip.product).anchors
        chain = store(chip.certificate, *(each.der for each in anchors.certificates))
        write(tmp_path, report=chip.report(), chain=chain)
        assert chip.certificate in read_evidence(tmp_path).evidence.endorsements.certificates

    @pytest.mark.parametrize(
        "write_down",
        [
            lambda report: ":".join(f"{octet:02x}" for octet in report).encode(),
            lambda report: json.dumps(base64.b64encode(report).decode()).encode(),
            lambda report: b"\xef\xbb\xbf" + report.hex().encode() + b"\r\n",
            lambda report: base64.b64encode(report).decode().encode("utf-16"),
        ],
        ids=["colons", "JSON", "mark", "UTF-16"],
    )
    def test_a_report_is_read_however_it_was_written_down(
        self, chip: FakeChip, tmp_path: Path, write_down: Callable[[bytes], bytes]
    ) -> None:
        report = chip.report()
        file = read_evidence(write(tmp_path, report=write_down(report)) / "report")
        assert (file.kind, file.evidence.body) == (EvidenceKind.SNP, report)


class TestQuotes:
    @pytest.fixture
    def evidence(self, forge: Forge, tee: Tee) -> Evidence:
        return forge.good(tee)

    def judged(self, forge: Forge, file: EvidenceFile) -> dict[str, str]:
        return failures(examine(file.evidence, at=NOW, anchors=forge.anchors))

    @pytest.mark.parametrize(
        "wrap",
        [
            lambda quote: bytes.fromhex("0100000002000000") + len(quote).to_bytes(8, "little") + quote,
            lambda quote: bytes.fromhex("0100000002000000") + len(quote).to_bytes(8, "little") + quote + b"claims",
            lambda quote: json.dumps({"quote": quote.hex()}).encode(),
            lambda quote: json.dumps({"quote": "0x" + quote.hex(), "user_data": ""}).encode(),
            lambda quote: json.dumps({"quote": base64.b64encode(quote).decode(), "cc_eventlog": ""}).encode(),
            lambda quote: json.dumps({"quote": base64.urlsafe_b64encode(quote).rstrip(b"=").decode()}).encode(),
            lambda quote: quote + bytes(8000 - len(quote)),
            lambda quote: base64.encodebytes(quote),
        ],
    )
    def test_a_quote_is_found_in_what_is_around_it(
        self, evidence: Evidence, tee: Tee, tmp_path: Path, wrap: Callable[[bytes], bytes]
    ) -> None:
        file = read_evidence(write(tmp_path, quote=wrap(evidence.body)) / "quote")
        assert (file.kind, file.evidence.body) == (EvidenceKind(tee), evidence.body)

    def test_a_size_that_does_not_fit_makes_it_no_quote(self, evidence: Evidence) -> None:
        for size in (0, len(evidence.body) + 1, 1 << 63):
            with pytest.raises(AttestationError):
                recognise(bytes.fromhex("0100000002000000") + size.to_bytes(8, "little") + evidence.body)

    @pytest.mark.parametrize("ending", [b"", b"\n", b"\x00", b"\n\x00"])
    @pytest.mark.parametrize("version", [3, 4, 5])
    def test_chains_end_as_quoting_libraries_end_them(
        self, forge: Forge, tee: Tee, ending: bytes, version: int, tmp_path: Path
    ) -> None:
        if (tee == "sgx") is not (version == 3):
            pytest.skip("enclaves' quotes are of version 3, TDs' of the others")
        good = forge.good(tee)
        offset = {3: 48, 4: 48, 5: 54}[3 if tee == "sgx" else 4]
        body = good.body[offset : offset + (384 if tee == "sgx" else 584)]
        chain = forge.pck_chain().rstrip(b"\n\x00") + ending
        quote = forge.quote(body, version=version, certification=(5, chain))
        write(tmp_path, quote__bin=quote, collateral__json=forge.collateral(tee))
        assert self.judged(forge, read_evidence(tmp_path, at=NOW)) == {}

    @pytest.mark.parametrize("size", [0, 1, 32, 255, 1024])
    def test_authentication_data_of_another_length_than_intels_are_refused_by_name(
        self, forge: Forge, tee: Tee, size: int
    ) -> None:
        changed = forge.good(tee)
        quote = forge.quote(
            changed.body[48 : 48 + (384 if tee == "sgx" else 584)],
            version=3 if tee == "sgx" else 4,
            authentication=bytes(index % 251 for index in range(size)),
        )
        evidence = forge.evidence(tee, quote, forge.collateral(tee))
        found = failures(examine(evidence, at=NOW, anchors=forge.anchors))
        assert found == (
            {} if size == 32 else {f"{tee}.tcb": "refused by Intel's collateral: Invalid QE auth data length"}
        )


def plain(bundle: dict[str, Any]) -> dict[str, Any]:
    return bundle


def camel(bundle: dict[str, Any]) -> dict[str, Any]:
    def name(snake: str) -> str:
        first, *rest = snake.split("_")
        return first + "".join(part.title() for part in rest)

    return {name(field): value for field, value in bundle.items()}


def pcs_replies(bundle: dict[str, Any]) -> dict[str, Any]:
    """As `sgx_ql_qve_collateral_t` has it: whole replies, and no signatures beside them."""
    found = {name: value for name, value in bundle.items() if not name.endswith("_signature")}
    for field, name in (("tcb_info", "tcbInfo"), ("qe_identity", "enclaveIdentity")):
        found[field] = f'{{"{name}":{bundle[field]},"signature":"{bundle[f"{field}_signature"]}"}}'
    return {"version": 3, "tee_type": 129, **found}


def base64_lists(bundle: dict[str, Any]) -> dict[str, Any]:
    for name in ("root_ca_crl", "pck_crl"):
        bundle[name] = base64.b64encode(bytes.fromhex(bundle[name])).decode()
    return bundle


def lists_of_numbers(bundle: dict[str, Any]) -> dict[str, Any]:
    for name in ("root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature"):
        bundle[name] = list(bytes.fromhex(bundle[name]))
    return bundle


def reversed_chains(bundle: dict[str, Any]) -> dict[str, Any]:
    for name in (name for name in bundle if name.endswith("_chain")):
        bundle[name] = pem(*(each.der for each in reversed(read_certificates(bundle[name].encode()))))
    return bundle


def headers_of_the_pcs(bundle: dict[str, Any]) -> dict[str, Any]:
    return {name: quote(value) if name.endswith("_chain") else value for name, value in bundle.items()}


class TestCollateral:
    @pytest.mark.parametrize(
        "form",
        [plain, camel, pcs_replies, base64_lists, lists_of_numbers, reversed_chains, headers_of_the_pcs],
    )
    def test_every_form_says_the_same(
        self, forge: Forge, tee: Tee, tmp_path: Path, form: Callable[[dict[str, Any]], dict[str, Any]]
    ) -> None:
        good = forge.good(tee)
        assert good.endorsements.collateral is not None
        document = form(json.loads(good.endorsements.collateral))
        write(tmp_path, quote__bin=good.body, **{"Collateral.json": json.dumps(document)})
        for file in (
            read_evidence(tmp_path, at=NOW),
            read_evidence(tmp_path / "quote.bin", collateral=tmp_path / "Collateral.json", at=NOW),
        ):
            examination = examine(file.evidence, at=NOW, anchors=forge.anchors)
            assert failures(examination) == {}
            assert examination.facts["tcb_status"] == "UpToDate"

    @pytest.mark.parametrize("field", ["tcb_info", "qe_identity"])
    def test_what_is_signed_is_not_touched_in_any_form(
        self, forge: Forge, tee: Tee, tmp_path: Path, field: str
    ) -> None:
        good = forge.good(tee)
        assert good.endorsements.collateral is not None
        for form in (camel, pcs_replies):
            bundle = json.loads(good.endorsements.collateral)
            bundle[field] = bundle[field].replace("UpToDate", "Up-to-Date").replace("Up-to-Date", "OutOfDate")
            write(tmp_path, quote__bin=good.body, collateral__json=json.dumps(form(bundle)))
            found = failures(examine(read_evidence(tmp_path, at=NOW).evidence, at=NOW, anchors=forge.anchors))
            assert f"{tee}.tcb" in found

    def test_replies_of_the_service_in_files_are_put_together(self, forge: Forge, tee: Tee, tmp_path: Path) -> None:
        good = forge.good(tee)
        assert good.endorsements.collateral is not None
        bundle = json.loads(good.endorsements.collateral)
        replies = pcs_replies(bundle)
        apart = tmp_path / "pcs"
        apart.mkdir()
        write(
            apart,
            tcb=replies["tcb_info"],
            identity=replies["qe_identity"],
            **{
                "signers.pem": bundle["tcb_info_issuer_chain"],
                "root.crl": bytes.fromhex(bundle["root_ca_crl"]),
                "pck.crl": bytes.fromhex(bundle["pck_crl"]),
            },
        )
        write(tmp_path, quote__bin=good.body)
        file = read_evidence(tmp_path / "quote.bin", collateral=apart, at=NOW)
        assert {path.name for path in file.used} >= {"tcb", "identity", "signers.pem", "root.crl", "pck.crl"}
        assert failures(examine(file.evidence, at=NOW, anchors=forge.anchors)) == {}
        for name in ("tcb", "signers.pem", "root.crl", "pck.crl"):
            content = (apart / name).read_bytes()
            (apart / name).unlink()
            missing = read_evidence(tmp_path / "quote.bin", collateral=apart, at=NOW)
            assert missing.evidence.endorsements.collateral is None
            (apart / name).write_bytes(content)


class TestCertificates:
    def test_a_chain_that_begins_with_a_certificate_with_evidence_is_that_certificate(self, tmp_path: Path) -> None:
        leaf = FakeKeep().certificate()
        (authority,) = (each.der for each in read_certificates(fake_amd().vcek().certificate))
        write(tmp_path, chain__pem=pem(leaf, authority), other__pem=pem(authority, leaf))
        file = read_evidence(tmp_path / "chain.pem", accept=frozenset({Convention.KEEP_EVIDENCE}))
        assert file.kind is EvidenceKind.SIMULATED
        with pytest.raises(AttestationError, match="is certificates, which is no evidence"):
            read_evidence(tmp_path / "other.pem")


class TestLogs:
    def test_dstacks_log_in_a_file_is_replayed_and_another_is_refused(self, forge: Forge, tmp_path: Path) -> None:
        event = {"imr": 3, "event_type": 1, "digest": "11" * 48, "event": "", "event_payload": ""}
        log = json.dumps([{**event, "imr": 0}])
        write(tmp_path, quote__bin=forge.good("tdx").body, log__json=log)
        assert recognise(log.encode()).content is Content.EVENT_LOG
        file = read_evidence(tmp_path / "quote.bin", log=tmp_path / "log.json", at=NOW)
        examination = examine(file.evidence, at=NOW, anchors=forge.anchors)
        (check,) = (each for each in examination.checks if each.name == "tdx.log")
        assert check.outcome is Outcome.FAIL
        assert "RTMR0" in check.reason
