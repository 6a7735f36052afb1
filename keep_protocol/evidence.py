"""What a keep binds into evidence, and how: claims as deterministic CBOR, and the digest that hardware signs.

Keeps write claims, verifiers read them (`keep_attestation.claims`); a keep imports no CBOR library for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TypeAlias

import msgspec

from keep_protocol.states import EvidenceKind as EvidenceKind

PROFILE = "keep-evidence-v1"
"""Names the binding; the domain string that keeps a report made for another protocol from being used here."""

CMW_OID = "1.3.6.1.5.5.7.1.35"
"""id-pe-cmw, the certificate extension of RFC 9999."""
CMW_COLLECTION_TYPE = "tag:wasmkeep.dev,2026:keep-evidence-v1"

EXPORTER_LABEL = b"EXPERIMENTAL keep-ra-v1"
"""Label of the TLS exporter (RFC 8446, 7.5), whose context is the nonce. RFC 5705: private labels begin so."""
EXPORTER_SIZE = 32
NONCE_SIZE = 32

SHA256_ID = 1
"""sha-256 in the IANA registry of named information hash algorithms, as claims name it."""


CLAIMS_MEDIA_TYPE = "application/vnd.wasmkeep.claims+cbor"


class ClaimKey:
    """Keys of the claims map."""

    PROFILE = 1
    KIND = 2
    KEY = 3
    NONCE = 4
    EXPORTER = 5
    KEEP = 6
    WORKLOAD = 7
    SPEC = 8
    ISSUED_AT = 9
    BACKEND = 10
    CONFIGURATION = 11


class Claims(msgspec.Struct, frozen=True, kw_only=True):
    """What evidence says of a keep, besides what the hardware says."""

    kind: EvidenceKind
    backend: str
    keep: str
    """The keep's id."""
    spki_sha256: bytes
    """SHA-256 of the DER SubjectPublicKeyInfo of the keep's TLS key."""
    spec_sha256: bytes
    """SHA-256 of the canonical spec the keep was started from."""
    workload_sha256: bytes | None = None
    """SHA-256 of the loaded workload's bytes; None while the keep is empty."""
    configuration_sha256: bytes | None = None
    """SHA-256 of the workload's configuration in its canonical bytes; None while there is none."""
    nonce: bytes | None = None
    exporter: bytes | None = None
    """TLS exporter of the connection the evidence was asked on; None in certificates."""
    issued_at: int
    """Seconds since the epoch by the keep's clock."""


CborItem: TypeAlias = "int | bytes | str | list[CborItem] | Mapping[int, CborItem] | Mapping[str, CborItem]"
"""What `encode_cbor` encodes."""


def encode_claims(claims: Claims) -> bytes:
    """The claims in core deterministic CBOR (RFC 8949, 4.2.1): absent ones are left out, keys ascend."""
    entries: dict[int, CborItem | None] = {
        ClaimKey.PROFILE: PROFILE,
        ClaimKey.KIND: claims.kind.value,
        ClaimKey.KEY: [SHA256_ID, claims.spki_sha256],
        ClaimKey.NONCE: claims.nonce,
        ClaimKey.EXPORTER: claims.exporter,
        ClaimKey.KEEP: claims.keep,
        ClaimKey.WORKLOAD: claims.workload_sha256,
        ClaimKey.SPEC: claims.spec_sha256,
        ClaimKey.ISSUED_AT: claims.issued_at,
        ClaimKey.BACKEND: claims.backend,
        ClaimKey.CONFIGURATION: claims.configuration_sha256,
    }
    return encode_cbor({key: value for key, value in entries.items() if value is not None})


def encode_cbor(item: CborItem) -> bytes:
    """`item` in core deterministic CBOR (RFC 8949, 4.2.1): map keys ascend bytewise by their encodings."""
    match item:
        case bool():
            raise TypeError("claims hold no booleans")
        case int():
            return _head(0, item)
        case bytes():
            return _head(2, len(item)) + item
        case str():
            text = item.encode()
            return _head(3, len(text)) + text
        case list():
            return _head(4, len(item)) + b"".join(map(encode_cbor, item))
        case dict():
            members = sorted((encode_cbor(key), encode_cbor(value)) for key, value in item.items())
            return _head(5, len(members)) + b"".join(key + value for key, value in members)
        case _:
            raise TypeError(f"claims hold nothing of type {type(item).__name__}")


def _head(major: int, argument: int) -> bytes:
    if argument < 0:
        raise ValueError("claims hold no negative numbers")
    if argument < 24:
        return bytes([major << 5 | argument])
    for code, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if argument < 1 << 8 * size:
            return bytes([major << 5 | code]) + argument.to_bytes(size, "big")
    raise ValueError("a CBOR argument has at most 8 bytes")


def report_data(claims: bytes) -> bytes:
    """The 64 bytes that an SNP, TDX or SGX report carries for these encoded claims."""
    return hashlib.sha512(PROFILE.encode() + b"\x00" + claims).digest()


def qualifying_data(claims: bytes) -> bytes:
    """The 32 bytes that a TPM quote carries as extraData: a TPM's nonce is at most a digest of its own long."""
    return hashlib.sha256(PROFILE.encode() + b"\x00" + claims).digest()
