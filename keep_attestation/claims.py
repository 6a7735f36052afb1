"""Reads the claims that a keep bound into its evidence."""

from __future__ import annotations

from typing import Any

from keep_attestation.cbor import decode_cbor
from keep_attestation.errors import MalformedEvidenceError, UnsupportedEvidenceError
from keep_protocol.evidence import PROFILE, SHA256_ID, ClaimKey, Claims, EvidenceKind, encode_claims

MAX_CLAIMS_SIZE = 512
"""Nitro's user_data holds no more."""

_KNOWN = frozenset(value for name, value in vars(ClaimKey).items() if name.isupper())


def decode_claims(data: bytes) -> Claims:
    """The claims in `data`, which must be their one deterministic encoding. Raises `MalformedEvidenceError`."""
    if len(data) > MAX_CLAIMS_SIZE:
        raise MalformedEvidenceError(f"claims have {len(data)} bytes; at most {MAX_CLAIMS_SIZE} are read")
    entries = decode_cbor(data, "claims")
    if not isinstance(entries, dict):
        raise MalformedEvidenceError("claims are no CBOR map")
    if unknown := [key for key in entries if key not in _KNOWN]:
        raise UnsupportedEvidenceError(f"claims have an unknown key: {unknown[0]!r}")
    if entries.get(ClaimKey.PROFILE) != PROFILE:
        raise UnsupportedEvidenceError(f"claims are of profile {entries.get(ClaimKey.PROFILE)!r}, not {PROFILE!r}")
    try:
        kind = EvidenceKind(_text(entries, ClaimKey.KIND, "kind"))
    except ValueError:
        raise UnsupportedEvidenceError(f"claims are of an unknown kind: {entries[ClaimKey.KIND]!r}") from None
    claims = Claims(
        kind=kind,
        backend=_text(entries, ClaimKey.BACKEND, "backend"),
        keep=_text(entries, ClaimKey.KEEP, "keep id"),
        spki_sha256=_key_digest(entries.get(ClaimKey.KEY)),
        spec_sha256=_octets(entries, ClaimKey.SPEC, "spec digest", 32, 32),
        workload_sha256=_optional_octets(entries, ClaimKey.WORKLOAD, "workload digest", 32, 32),
        configuration_sha256=_optional_octets(entries, ClaimKey.CONFIGURATION, "configuration digest", 32, 32),
        nonce=_optional_octets(entries, ClaimKey.NONCE, "nonce", 16, 64),
        exporter=_optional_octets(entries, ClaimKey.EXPORTER, "exporter", 32, 32),
        issued_at=_seconds(entries.get(ClaimKey.ISSUED_AT)),
    )
    if encode_claims(claims) != data:
        raise MalformedEvidenceError("claims are not in deterministic CBOR")
    return claims


def _key_digest(value: Any) -> bytes:
    match value:
        case [algorithm, bytes() as digest] if type(algorithm) is int:
            if algorithm != SHA256_ID:
                raise UnsupportedEvidenceError(f"claims hash the key with algorithm {algorithm}, not sha-256 (1)")
            if len(digest) == 32:
                return digest
    raise MalformedEvidenceError("claims: the key's digest must be [1, 32 bytes]")


def _text(entries: dict[Any, Any], key: int, name: str) -> str:
    value = entries.get(key)
    if not isinstance(value, str) or not 1 <= len(value) <= 64:
        raise MalformedEvidenceError(f"claims: {name} must be text of 1 to 64 characters")
    return value


def _octets(entries: dict[Any, Any], key: int, name: str, least: int, most: int) -> bytes:
    value = entries.get(key)
    if not isinstance(value, bytes) or not least <= len(value) <= most:
        raise MalformedEvidenceError(f"claims: {name} must be {least} to {most} bytes")
    return value


def _optional_octets(entries: dict[Any, Any], key: int, name: str, least: int, most: int) -> bytes | None:
    return _octets(entries, key, name, least, most) if key in entries else None


def _seconds(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise MalformedEvidenceError("claims: the time of issue must be a number of seconds")
    return value
