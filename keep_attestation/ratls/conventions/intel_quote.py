"""Bare Intel quotes as foreign conventions carry them: which kind of evidence are they?"""

from __future__ import annotations

from keep_attestation.byte_reader import ByteReader
from keep_attestation.errors import UnsupportedEvidenceError
from keep_attestation.evidence import Evidence
from keep_protocol.evidence import EvidenceKind

_SGX_VERSION = 3
_TDX_VERSIONS = (4, 5)
_TDX_TEE = 0x81


def quote_evidence(quote: bytes) -> Evidence:
    """An SGX quote of version 3, or a TDX quote of version 4 or 5, by its header. Raises `MalformedEvidenceError`."""
    reader = ByteReader(quote, "quote", "little")
    version = reader.integer(2)
    reader.take(2)
    tee = reader.integer(4)
    if version == _SGX_VERSION:
        # Bytes 4 to 7 are reserved in version 3; the verifier of quotes judges them.
        return Evidence(kind=EvidenceKind.SGX, body=quote)
    if version in _TDX_VERSIONS and tee == _TDX_TEE:
        return Evidence(kind=EvidenceKind.TDX, body=quote)
    raise UnsupportedEvidenceError(f"a quote of version {version} and TEE type {tee:#x} is not supported")
