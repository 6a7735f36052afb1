"""Every block of docs/attestation-library.md is run, over evidence that is genuine under roots made here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import chdir
from datetime import UTC, datetime, timedelta, tzinfo
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

import keep_attestation
from app_loader.attesters.simulated import attest
from keep_attestation import errors, verification
from keep_attestation.endorsement_sources.https_fetch import HttpsFetch
from keep_attestation.errors import AttestationError, EndorsementsError
from keep_attestation.policy import parse_policy
from keep_attestation.ratls import peer
from keep_protocol.evidence import EvidenceKind
from tests.unit.keep_attestation.azure.forge import AzureVm
from tests.unit.keep_attestation.intel.forge import Forge, enclave_report
from tests.unit.keep_attestation.nitro.forge import Module
from tests.unit.keep_attestation.ratls import makers
from tests.unit.keep_attestation.snp.forge import fake_amd
from tests.unit.keep_attestation.tpm.forge import PCRS, SHA256, ForgedTpm

PAGE = Path(keep_attestation.__file__).parents[1] / "docs" / "attestation-library.md"
AT = datetime(2026, 6, 1, 12, tzinfo=UTC)
"""When the page is run: everything that the makers make is valid then."""
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


class Then:
    """Stands for `datetime` in modules that ask what time it is."""

    fromtimestamp = datetime.fromtimestamp

    @staticmethod
    def now(zone: tzinfo) -> datetime:
        return AT.astimezone(zone)


def blocks(language: str) -> list[str]:
    return [code for name, code in BLOCKS if name == language]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with every file that the page names; our makers' roots are trusted, no service answers."""
    amd, intel, module = (
        fake_amd(),
        Forge(issue_date=AT - timedelta(days=3), next_update=AT + timedelta(days=27)),
        Module(),
    )
    anchors: dict[EvidenceKind, dict[str, Any]] = {
        EvidenceKind.SNP: {"anchors": amd.anchors},
        EvidenceKind.TDX: {"anchors": intel.anchors},
        EvidenceKind.SGX: {"anchors": intel.anchors},
        EvidenceKind.NITRO: {"anchors": {module.root.sha256}},
        EvidenceKind.AZURE_SNP: {"snp_anchors": amd.anchors},
    }
    examiner_of = verification.examiner_of

    def trusting(kind: EvidenceKind) -> Callable[..., Any]:
        return partial(examiner_of(kind), **anchors.get(kind, {}))

    def offline(self: HttpsFetch, url: str) -> Any:
        raise EndorsementsError("tests ask nobody")

    monkeypatch.setattr(verification, "examiner_of", trusting)
    monkeypatch.setattr(verification, "datetime", Then)
    monkeypatch.setattr(peer, "datetime", Then)
    monkeypatch.setattr(HttpsFetch, "__call__", offline)
    write_evidence(tmp_path, intel, module)
    with chdir(tmp_path):
        yield tmp_path


def write_evidence(folder: Path, intel: Forge, module: Module) -> None:
    chip, vm = fake_amd().vcek(), AzureVm()
    tpm = ForgedTpm(ec.derive_private_key(1, ec.SECP256R1()))
    quote = tpm.attest({SHA256: PCRS})
    tdx, sgx, azure = intel.good("tdx"), intel.good("sgx"), vm.evidence()
    keep = makers.FakeKeep()
    gramine = intel.quote(enclave_report(report_data=sha256(keep.spki).digest().ljust(64, b"\0")), version=3)
    born = AT - timedelta(minutes=1)
    files: dict[str, bytes | None] = {
        "policy.toml": blocks("toml")[0].encode(),
        "snp/report.bin": chip.report(),
        "snp/vcek.der": chip.certificate,
        "endorsements/vcek.der": chip.certificate,
        "endorsements/collateral.json": sgx.endorsements.collateral,
        "tdx/quote.bin": tdx.body,
        "tdx/collateral.json": tdx.endorsements.collateral,
        "sgx/quote.bin": sgx.body,
        "sgx/collateral.json": sgx.endorsements.collateral,
        "nitro/document.cbor": module.document(),
        "tpm/quote.msg": quote,
        "tpm/quote.sig": tpm.sign(quote),
        "tpm/ak.pub": tpm.public(),
        "azure/bundle.cbor": azure.body,
        "azure/vcek.der": vm.chip.certificate,
        "simulated/evidence.cbor": attest(bytes(64), bytes(32)),
        "ratls/code.sha256": makers.MEASUREMENT.hex().encode(),
        "ratls/spec.sha256": makers.SPEC_SHA256,
        "ratls/keep.der": keep.certificate(keep.collection(issued_at=int(AT.timestamp())), not_before=born),
        "ratls/gramine.der": makers.make_certificate(
            keep.key, {"0.6.9.42.840.113741.1337.6": gramine}, not_before=born
        ),
    }
    for name, content in files.items():
        assert content is not None
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)


def test_every_block_runs_one_after_the_other_as_a_reader_would_type_it(folder: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "page"}
    for number, code in enumerate(blocks("python"), 1):
        exec(compile(code, f"{PAGE.name}, block {number}", "exec"), namespace)


def test_a_block_fails_when_its_evidence_is_another(folder: Path) -> None:
    """Otherwise the test above would pass whatever the page says."""
    (folder / "snp" / "report.bin").write_bytes(fake_amd().vcek().report(measurement=bytes(48)))
    namespace: dict[str, Any] = {"__name__": "page"}
    with pytest.raises(AttestationError, match=r"snp\.measurement"):
        exec(blocks("python")[0], namespace)


def test_the_policy_on_the_page_lists_every_kind_but_simulated_and_azure_on_tdx() -> None:
    (policy,) = map(parse_policy, blocks("toml"))
    assert policy.kinds == set(EvidenceKind) - {EvidenceKind.SIMULATED, EvidenceKind.AZURE_TDX}


def test_the_error_tree_on_the_page_is_that_of_the_code() -> None:
    (tree,) = blocks("text")
    drawn = re.findall(r"^([│├└─ ]*)(\w+)", tree, re.MULTILINE)
    expected = [(0, AttestationError)]
    for error in AttestationError.__subclasses__():
        if error.__module__ == errors.__name__:
            expected.append((1, error))
            expected += [(2, each) for each in error.__subclasses__() if each.__module__ == errors.__name__]
    assert [(len(lines) // 4, name) for lines, name in drawn] == [(depth, error.__name__) for depth, error in expected]
