"""Fuzzes the reader of Intel quotes, up to the PCK certificate in them, and both verifiers: none may be content."""

from __future__ import annotations

import contextlib
import sys
from datetime import UTC, datetime

import atheris

with atheris.instrument_imports(include=["keep_attestation"]):
    from keep_attestation.errors import MalformedEvidenceError
    from keep_attestation.evidence import Evidence
    from keep_attestation.intel.collateral import read_pem_chain
    from keep_attestation.intel.pck import parse_pck_extension
    from keep_attestation.intel.quote import parse_quote, trim_zero_padding
    from keep_attestation.sgx.verifier import examine_sgx
    from keep_attestation.tdx.verifier import examine_tdx
    from keep_attestation.verdict import Outcome
    from keep_protocol.evidence import EvidenceKind

AT = datetime(2026, 6, 15, tzinfo=UTC)


def target(data: bytes) -> None:
    with contextlib.suppress(MalformedEvidenceError):
        trim_zero_padding(data)
    with contextlib.suppress(MalformedEvidenceError):
        for certificate in read_pem_chain(parse_quote(data).certification_data):
            parse_pck_extension(certificate)
    for kind, examine in ((EvidenceKind.TDX, examine_tdx), (EvidenceKind.SGX, examine_sgx)):
        with contextlib.suppress(MalformedEvidenceError):
            examination = examine(Evidence(kind=kind, body=data), binding=None, at=AT)
            if all(check.outcome is not Outcome.FAIL for check in examination.checks):
                raise AssertionError("arbitrary bytes were taken for genuine evidence")


def main() -> None:
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
