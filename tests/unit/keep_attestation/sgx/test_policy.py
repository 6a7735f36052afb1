"""Whether an SGX policy accepts the enclaves it names and nothing else, on real and on forged evidence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from keep_attestation.intel.tcb_status import TcbStatus
from keep_attestation.policy import Policy
from keep_attestation.sgx.policy import SgxPolicy
from keep_attestation.verification import verify
from tests.unit.keep_attestation.intel.forge import enclave_report
from tests.unit.keep_attestation.intel.outcomes import FORGE, examine, quote
from tests.unit.keep_attestation.intel.vector_cases import windows

ENCLAVE, SIGNER = "ee" * 32, "51" * 32
BY_SIGNER: dict[str, Any] = {"mr_signers": (SIGNER,), "isv_prod_id": 7, "minimum_isv_svn": 3}


def refused_by(report: dict[str, Any] | None = None, **fields: Any) -> set[str]:
    """Names of the rules that refuse forged evidence."""
    body = FORGE.quote(enclave_report(**report), version=3) if report else quote("sgx")
    facts = examine(FORGE.evidence("sgx", body, FORGE.collateral("sgx")), anchors=FORGE.anchors).facts
    checks = [rule.check(facts) for rule in SgxPolicy(**fields).rules()]
    return {check.name for check in checks if check.outcome == "fail"}


def test_with_reference_values_real_evidence_is_accepted_only_with_its_status_allowed(vectors: Path) -> None:
    for window in windows(vectors, "sgx"):
        enclave = (window.vector.facts["mr_enclave"],)
        statuses = (TcbStatus.UP_TO_DATE, TcbStatus(window.tcb_status)) if window.tcb_status else ()
        strict = Policy(sgx=(SgxPolicy(mr_enclaves=enclave),))
        lenient = Policy(sgx=(SgxPolicy(mr_enclaves=enclave, tcb_statuses=statuses),))
        refused = window.vector.expected["verify"]["default_policy"].startswith("refuse:")
        expected = window.verified and not refused
        by_strict = verify(window.evidence, strict, at=window.at)
        assert by_strict.accepted is (expected and window.tcb_status == "UpToDate"), by_strict.summary
        by_lenient = verify(window.evidence, lenient, at=window.at)
        assert by_lenient.accepted is expected, by_lenient.summary


def test_without_reference_values_nothing_is_accepted() -> None:
    assert refused_by() == {"sgx.mr_enclave"}


def test_enclaves_are_accepted_by_measurement() -> None:
    assert refused_by(mr_enclaves=(ENCLAVE.upper(),)) == set()
    assert refused_by(mr_enclaves=("11" * 32,)) == {"sgx.mr_enclave"}


def test_enclaves_are_accepted_by_signer_product_and_version_together() -> None:
    assert refused_by(**BY_SIGNER) == set()
    for changed in ({"mr_signers": ("11" * 32,)}, {"isv_prod_id": 8}, {"minimum_isv_svn": 4}):
        assert refused_by(**BY_SIGNER | changed) == {"sgx.mr_signer"}


def test_either_measurement_or_signer_suffices_where_both_are_named() -> None:
    assert refused_by(mr_enclaves=("11" * 32,), **BY_SIGNER) == set()
    assert refused_by(mr_enclaves=(ENCLAVE,), **BY_SIGNER | {"isv_prod_id": 8}) == set()
    assert refused_by(mr_enclaves=("11" * 32,), **BY_SIGNER | {"isv_prod_id": 8}) == {"sgx.enclave"}


def test_debug_configuration_and_provisioning_key_are_refused_by_default() -> None:
    assert refused_by({"attributes": 0x07}, mr_enclaves=(ENCLAVE,)) >= {"sgx.debug"}
    assert refused_by({"attributes": 0x15}, mr_enclaves=(ENCLAVE,)) == {"sgx.provision_key"}
    assert refused_by({"attributes": 0x15}, mr_enclaves=(ENCLAVE,), allow_provision_key=True) == set()
    assert refused_by({"config_id": b"c" * 64}, mr_enclaves=(ENCLAVE,)) == {"sgx.config_id"}
    assert refused_by({"config_id": b"c" * 64}, mr_enclaves=(ENCLAVE,), config_ids=("63" * 64,)) == set()


def test_platform_demands_apply_to_enclaves_too() -> None:
    assert refused_by(mr_enclaves=(ENCLAVE,), ppids=("ff" * 16,)) == {"sgx.ppid"}
    assert refused_by(mr_enclaves=(ENCLAVE,), minimum_tcb_evaluation_number=19) == {"sgx.tcb_evaluation_number"}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"mr_enclaves": ["ab"]}, "mr_enclaves: 'ab' is not 64 hex digits"),
        ({"mr_signers": ["zz" * 32], "isv_prod_id": 1, "minimum_isv_svn": 1}, "mr_signers"),
        ({"mr_signers": [SIGNER]}, "name isv_prod_id and minimum_isv_svn"),
        ({"mr_signers": [SIGNER], "isv_prod_id": 1}, "name isv_prod_id and minimum_isv_svn"),
        ({"config_ids": ["00"]}, "config_ids"),
        ({"tcb_statuses": ["Revoked"]}, "Revoked cannot be accepted"),
        ({"mr_enclave": []}, "unknown field `mr_enclave`"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=re.escape(reason)):
        msgspec.convert(fields, SgxPolicy)
