"""Fuzzes what is made of answers of manufacturers' services."""

from __future__ import annotations

import contextlib
import sys

import atheris

with atheris.instrument_imports(include=["keep_attestation"]):
    from keep_attestation.endorsement_sources.cache import end_of_use
    from keep_attestation.endorsement_sources.intel_pcs import IntelPcsSource, platform_of
    from keep_attestation.endorsement_sources.interface import Fetched
    from keep_attestation.errors import EndorsementsError

from keep_protocol.evidence import EvidenceKind

_HEADERS = dict.fromkeys(
    ("tcb-info-issuer-chain", "sgx-enclave-identity-issuer-chain", "sgx-pck-crl-issuer-chain"), "%2D"
)


class _Answering:
    """A service that answers everything with the same bytes."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __call__(self, url: str) -> Fetched:
        return Fetched(self._body, _HEADERS)


def target(data: bytes) -> None:
    for body in (data, b'{"tcbInfo":%b,"enclaveIdentity":%b,"signature":""}' % (data, data)):
        end_of_use(body)
        source = IntelPcsSource(_Answering(body))
        with contextlib.suppress(EndorsementsError):
            source.collateral(EvidenceKind.TDX, "00806F050000", "platform")
    with contextlib.suppress(EndorsementsError):
        platform_of(data)


def main() -> None:
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
