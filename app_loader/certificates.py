"""A self-signed server certificate, put together in DER by hand (RFC 5280); only the signature is OpenSSL's.

Building it here needs no configuration strings in which a name could mean something else.
"""

from __future__ import annotations

import hashlib
import os
import socket
import time
from typing import Final

from app_loader.errors import IdentityError
from app_loader.libcrypto import Key

_INTEGER: Final = 0x02
_BIT_STRING: Final = 0x03
_OCTET_STRING: Final = 0x04
_OBJECT_IDENTIFIER: Final = 0x06
_UTF8_STRING: Final = 0x0C
_UTC_TIME: Final = 0x17
_GENERALIZED_TIME: Final = 0x18
_SEQUENCE: Final = 0x30
_SET: Final = 0x31
_DNS_NAME: Final = 0x82
_IP_ADDRESS: Final = 0x87

_TRUE: Final = b"\x01\x01\xff"
_ECDSA_WITH_SHA256: Final = bytes.fromhex("2a8648ce3d040302")
_COMMON_NAME: Final = bytes.fromhex("550403")
_SUBJECT_KEY_IDENTIFIER: Final = bytes.fromhex("551d0e")
_KEY_USAGE: Final = bytes.fromhex("551d0f")
_SUBJECT_ALTERNATIVE_NAME: Final = bytes.fromhex("551d11")
_BASIC_CONSTRAINTS: Final = bytes.fromhex("551d13")
_AUTHORITY_KEY_IDENTIFIER: Final = bytes.fromhex("551d23")
_EXTENDED_KEY_USAGE: Final = bytes.fromhex("551d25")
_SERVER_AUTHENTICATION: Final = bytes.fromhex("2b06010505070301")
_CLIENT_AUTHENTICATION: Final = bytes.fromhex("2b06010505070302")
"""Workloads' connecting sockets show the keep's certificate too."""
_CONCEPTUAL_MESSAGE: Final = bytes.fromhex("2b06010505070123")
"""id-pe-cmw, 1.3.6.1.5.5.7.1.35."""
_DIGITAL_SIGNATURE: Final = b"\x03\x02\x07\x80"


def self_signed(
    key: Key,
    *,
    common_name: str,
    names: tuple[str, ...],
    not_before: float,
    not_after: float,
    evidence: bytes | None = None,
) -> bytes:
    """A certificate for a TLS server in DER; `names` are DNS names and addresses. Raises `IdentityError`.

    `evidence` is a CMW collection in CBOR, which goes into the extension of RFC 9999, section 5.
    """
    public = key.public()
    algorithm = _der(_SEQUENCE, _der(_OBJECT_IDENTIFIER, _ECDSA_WITH_SHA256))
    name = _name(common_name)
    body = _der(
        _SEQUENCE,
        _der(0xA0, _der(_INTEGER, b"\x02")),  # version 3
        _der(_INTEGER, _serial()),
        algorithm,
        name,
        _der(_SEQUENCE, _moment(not_before), _moment(not_after)),
        name,
        public,
        _der(0xA3, _der(_SEQUENCE, *_extensions(public, names, evidence))),
    )
    return _der(_SEQUENCE, body, algorithm, _der(_BIT_STRING, b"\0", key.sign(body)))


def _extensions(public: bytes, names: tuple[str, ...], evidence: bytes | None) -> tuple[bytes, ...]:
    identifier = hashlib.sha256(public).digest()[:20]  # RFC 7093, section 2, method 4
    return (
        _extension(_BASIC_CONSTRAINTS, _der(_SEQUENCE), critical=True),
        _extension(_KEY_USAGE, _DIGITAL_SIGNATURE, critical=True),
        _extension(_EXTENDED_KEY_USAGE, _purposes()),
        _extension(_SUBJECT_ALTERNATIVE_NAME, _der(_SEQUENCE, *(_general_name(name) for name in names))),
        _extension(_SUBJECT_KEY_IDENTIFIER, _der(_OCTET_STRING, identifier)),
        _extension(_AUTHORITY_KEY_IDENTIFIER, _der(_SEQUENCE, _der(0x80, identifier))),
        # Not critical: whoever cannot read it pins the key.
        *(() if evidence is None else (_extension(_CONCEPTUAL_MESSAGE, _der(_OCTET_STRING, evidence)),)),
    )


def _extension(identifier: bytes, value: bytes, *, critical: bool = False) -> bytes:
    flag = _TRUE if critical else b""
    return _der(_SEQUENCE, _der(_OBJECT_IDENTIFIER, identifier), flag, _der(_OCTET_STRING, value))


def _general_name(name: str) -> bytes:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            return _der(_IP_ADDRESS, socket.inet_pton(family, name))
        except (OSError, ValueError):
            continue
    if not name or not name.isascii() or not name.isprintable() or " " in name:
        raise IdentityError(f"{name!r} is neither a DNS name in ASCII nor an address")
    return _der(_DNS_NAME, name.encode("ascii"))


def _name(common_name: str) -> bytes:
    attribute = _der(_SEQUENCE, _der(_OBJECT_IDENTIFIER, _COMMON_NAME), _der(_UTF8_STRING, common_name.encode()))
    return _der(_SEQUENCE, _der(_SET, attribute))


def _serial() -> bytes:
    # 127 random bits below a set one: positive, of one length, never zero.
    serial = bytearray(os.urandom(16))
    serial[0] = serial[0] & 0x3F | 0x40
    return bytes(serial)


def _moment(timestamp: float) -> bytes:
    moment = time.gmtime(timestamp)
    if moment.tm_year < 2050:
        return _der(_UTC_TIME, time.strftime("%y%m%d%H%M%SZ", moment).encode())
    return _der(_GENERALIZED_TIME, time.strftime("%Y%m%d%H%M%SZ", moment).encode())


def _purposes() -> bytes:
    purposes = (_SERVER_AUTHENTICATION, _CLIENT_AUTHENTICATION)
    return _der(_SEQUENCE, *(_der(_OBJECT_IDENTIFIER, purpose) for purpose in purposes))


def _der(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content
