"""Fuzzes the readers of certificates and CRLs, and what judges their chains: none may be content with changed ones."""

from __future__ import annotations

import contextlib
import sys

import atheris

with atheris.instrument_imports(include=["keep_attestation"]):
    from keep_attestation.certificates import (
        build_chain,
        chain_problem,
        integer,
        octet_string,
        read_certificates,
        read_crl,
        revoked_by,
    )
    from keep_attestation.errors import MalformedEvidenceError

from tests.unit.keep_attestation.snp.forge import NOW, fake_amd, mutated

_AMD = fake_amd()
_ANCHOR = _AMD.hierarchy.ark
_CRL = _AMD.crl()


def target(data: bytes) -> None:
    for candidate in (data, mutated(_AMD.hierarchy.ask.der, data)):
        with contextlib.suppress(MalformedEvidenceError):
            for certificate in read_certificates(candidate):
                chain = build_chain(certificate, (), _ANCHOR)
                if len(chain) > 1 and chain_problem(chain, NOW) is None:
                    assert certificate.signed in (_AMD.hierarchy.ask.signed, _AMD.hierarchy.asvk.signed)
                for content in certificate.extensions.values():
                    for read in (integer, octet_string):
                        with contextlib.suppress(MalformedEvidenceError):
                            read(content)
    for candidate in (data, mutated(_CRL, data)):
        with contextlib.suppress(MalformedEvidenceError):
            revocations = read_crl(candidate)
            if revoked_by(revocations, _ANCHOR, (), NOW) is None:
                assert revocations.signed in _CRL


def main() -> None:
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
