"""Reads the attestation documents that a Nitro Security Module signs.

Layout: AWS Nitro Enclaves NSM API, docs/attestation_process.md, sections 3.1 and 3.2; COSE_Sign1 is RFC 9052, 4.2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from keep_attestation.cbor import decode_cbor, strip_tag
from keep_attestation.errors import MalformedEvidenceError, UnsupportedEvidenceError

MAX_DOCUMENT_SIZE = 16 * 1024
"""Bytes; the NSM's answers have at most 12 KiB (0x3000)."""

SIGNATURE_SIZE = 96
"""Bytes: r and s of ECDSA on P-384, big endian."""

_COSE_SIGN1_TAG = 18
_PROTECTED_ES384 = b"\xa1\x01\x38\x22"
"""`{1: -35}`: the one protected header that is accepted, bytewise, so that no second algorithm can hide in it."""
_MEMBERS = frozenset(
    {
        "module_id",
        "digest",
        "timestamp",
        "pcrs",
        "certificate",
        "cabundle",
        "public_key",
        "user_data",
        "nonce",
    }
)
_MODULE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,127}")
_PCR_SIZES = (32, 48, 64)
_MAX_CERTIFICATE_SIZE = 1024
_MAX_TIMESTAMP = 253_402_300_799_000
"""The end of the year 9999: beyond it there is no datetime."""


@dataclass(frozen=True, slots=True)
class NitroDocument:
    """A document as its bytes say; nothing in it is verified."""

    protected: bytes
    payload: bytes
    signature: bytes
    module_id: str
    timestamp_ms: int
    """Since the epoch, by the hypervisor's clock."""
    pcrs: Mapping[int, bytes]
    certificate: bytes
    """DER of the module's certificate, which lives three hours."""
    cabundle: tuple[bytes, ...]
    """DER; the root comes first."""
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None

    @property
    def signed(self) -> bytes:
        """What the signature is over: Sig_structure of RFC 9052, 4.4, with empty external data."""
        parts = (self.protected, b"", self.payload)
        return b"\x84\x6aSignature1" + b"".join(_byte_string(part) for part in parts)

    @property
    def timestamp(self) -> datetime:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=self.timestamp_ms)

    @property
    def is_debug(self) -> bool:
        """A debug enclave's measurements are zero: its memory and console are open to the parent instance."""
        return not any(self.pcrs[0])

    @property
    def instance_id(self) -> str:
        """The EC2 instance that the module serves: what precedes `-enc` in the module's id."""
        return self.module_id.partition("-enc")[0]


def parse_document(data: bytes) -> NitroDocument:
    """The COSE_Sign1 in `data`, with tag 18 or without. Raises `MalformedEvidenceError`."""
    if len(data) > MAX_DOCUMENT_SIZE:
        raise MalformedEvidenceError(f"Nitro document: {len(data)} bytes; at most {MAX_DOCUMENT_SIZE} are read")
    untagged = strip_tag(data, _COSE_SIGN1_TAG)
    protected, payload, signature = _sign1(decode_cbor(data if untagged is None else untagged, "Nitro document"))
    # Newer modules write the payload's map with indefinite length.
    members = decode_cbor(payload, "Nitro payload", allow_indefinite=True)
    if not isinstance(members, dict):
        raise MalformedEvidenceError("Nitro payload: it is no CBOR map")
    if unknown := [key for key in members if key not in _MEMBERS]:
        raise UnsupportedEvidenceError(f"Nitro payload: unknown member {str(unknown[0])[:40]!r}")
    if members.get("digest") != "SHA384":
        raise UnsupportedEvidenceError(f"Nitro payload: digest is {str(members.get('digest'))[:40]!r}, not 'SHA384'")
    return NitroDocument(
        protected=protected,
        payload=payload,
        signature=signature,
        module_id=_module_id(members.get("module_id")),
        timestamp_ms=_timestamp(members.get("timestamp")),
        pcrs=_pcrs(members.get("pcrs")),
        certificate=_octets(members.get("certificate"), "certificate", 1, _MAX_CERTIFICATE_SIZE),
        cabundle=_cabundle(members.get("cabundle")),
        public_key=_optional(members.get("public_key"), "public_key", 1024),
        user_data=_optional(members.get("user_data"), "user_data", 512),
        nonce=_optional(members.get("nonce"), "nonce", 512),
    )


def _sign1(item: Any) -> tuple[bytes, bytes, bytes]:
    match item:
        case [bytes() as protected, dict() as unprotected, bytes() as payload, bytes() as signature]:
            if protected != _PROTECTED_ES384:
                raise UnsupportedEvidenceError(
                    f"Nitro document: protected header {protected[:16].hex()} is not a1013822 (ES384 alone)"
                )
            if unprotected:
                raise MalformedEvidenceError(
                    "Nitro document: its unprotected header, which nothing signs, is not empty"
                )
            if len(signature) != SIGNATURE_SIZE:
                raise MalformedEvidenceError(
                    f"Nitro document: {len(signature)} bytes of signature, not {SIGNATURE_SIZE}"
                )
            return protected, payload, signature
    raise MalformedEvidenceError("Nitro document: it is no COSE_Sign1 array of protected, {}, payload, signature")


def _module_id(value: Any) -> str:
    if not isinstance(value, str) or not _MODULE_ID.fullmatch(value):
        raise MalformedEvidenceError("Nitro payload: module_id must be 1 to 128 letters, digits and hyphens")
    return value


def _timestamp(value: Any) -> int:
    if type(value) is not int or not 0 < value <= _MAX_TIMESTAMP:
        raise MalformedEvidenceError("Nitro payload: timestamp must be milliseconds since 1970")
    return value


def _pcrs(value: Any) -> Mapping[int, bytes]:
    if not isinstance(value, dict) or not 1 <= len(value) <= 32:
        raise MalformedEvidenceError("Nitro payload: pcrs must be a map of 1 to 32 registers")
    pcrs: dict[int, bytes] = {}
    for index, register in value.items():
        if type(index) is not int or not 0 <= index < 32:
            raise MalformedEvidenceError("Nitro payload: a PCR's index must be a number from 0 to 31")
        if not isinstance(register, bytes) or len(register) not in _PCR_SIZES:
            raise MalformedEvidenceError(f"Nitro payload: PCR{index} must be 32, 48 or 64 bytes")
        pcrs[index] = register
    if 0 not in pcrs:
        raise MalformedEvidenceError("Nitro payload: PCR0, the image's measurement, is missing")
    return dict(sorted(pcrs.items()))


def _cabundle(value: Any) -> tuple[bytes, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= 8:
        raise MalformedEvidenceError("Nitro payload: cabundle must be an array of 1 to 8 certificates")
    return tuple(_octets(der, "a certificate of cabundle", 1, _MAX_CERTIFICATE_SIZE) for der in value)


def _octets(value: Any, name: str, least: int, most: int) -> bytes:
    if not isinstance(value, bytes) or not least <= len(value) <= most:
        raise MalformedEvidenceError(f"Nitro payload: {name} must be {least} to {most} bytes")
    return value


def _optional(value: Any, name: str, most: int) -> bytes | None:
    return None if value is None else _octets(value, name, 0, most)


def _byte_string(data: bytes) -> bytes:
    if len(data) < 24:
        return bytes([0x40 | len(data)]) + data
    if len(data) < 256:
        return b"\x58" + bytes([len(data)]) + data
    return b"\x59" + len(data).to_bytes(2, "big") + data
