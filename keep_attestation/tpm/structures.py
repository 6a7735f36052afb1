"""Reads the structures that a TPM signs and names (TPM 2.0 Library, Part 2, revision 1.59)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import TypeAlias

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from keep_attestation.byte_reader import ByteReader
from keep_attestation.errors import MalformedEvidenceError, UnsupportedEvidenceError
from keep_attestation.event_log.event import HashAlgorithm

PCR_COUNT = 24

_TPM_GENERATED = 0xFF544347
_ATTEST_QUOTE = 0x8018
_NULL = 0x0010
_RSA = 0x0001
_ECC = 0x0023
_CURVES: Mapping[int, ec.EllipticCurve] = {3: ec.SECP256R1(), 4: ec.SECP384R1(), 5: ec.SECP521R1()}

TpmPublicKey: TypeAlias = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


class SigningScheme(IntEnum):
    """TPM_ALG_ID of the signature schemes that are accepted; others are refused by number."""

    RSASSA = 0x0014
    RSAPSS = 0x0016
    ECDSA = 0x0018


class ObjectAttribute(IntFlag):
    """TPMA_OBJECT (8.3)."""

    FIXED_TPM = 1 << 1
    ST_CLEAR = 1 << 2
    FIXED_PARENT = 1 << 4
    SENSITIVE_DATA_ORIGIN = 1 << 5
    USER_WITH_AUTH = 1 << 6
    ADMIN_WITH_POLICY = 1 << 7
    NO_DICTIONARY_ATTACK = 1 << 10
    ENCRYPTED_DUPLICATION = 1 << 11
    RESTRICTED = 1 << 16
    DECRYPT = 1 << 17
    SIGN = 1 << 18
    X509_SIGN = 1 << 19


@dataclass(frozen=True, slots=True)
class Attest:
    """TPMS_ATTEST of a quote (10.12.12)."""

    qualified_signer: bytes
    extra_data: bytes
    clock: int
    """Milliseconds that the TPM was powered for."""
    reset_count: int
    restart_count: int
    safe: bool
    """Whether `clock` never was as high before; False after power was lost."""
    firmware: int
    """The maker's version of the TPM's firmware."""
    selection: Mapping[int, tuple[int, ...]]
    """Registers by the TPM_ALG_ID of their bank, in the order in which pcrDigest has them."""
    pcr_digest: bytes


@dataclass(frozen=True, slots=True)
class Signature:
    """TPMT_SIGNATURE (11.3.4)."""

    scheme: SigningScheme
    hash: HashAlgorithm
    value: bytes
    """Of RSA; empty with ECDSA."""
    r: int = 0
    s: int = 0


@dataclass(frozen=True, slots=True)
class Public:
    """TPMT_PUBLIC of an asymmetric key (12.2.4)."""

    raw: bytes
    name_algorithm: HashAlgorithm
    attributes: ObjectAttribute
    auth_policy: bytes
    scheme: int
    """TPM_ALG_ID; 0x0010 where the key has no fixed scheme."""
    scheme_hash: int
    key: TpmPublicKey

    @property
    def name(self) -> bytes:
        """The object's name: nameAlg and the hash of the whole structure (Part 1, 16)."""
        return self.name_algorithm.to_bytes(2, "big") + self.name_algorithm.digest(self.raw)


def parse_attest(data: bytes) -> Attest:
    """The quote in `data`. Raises `MalformedEvidenceError`."""
    reader = ByteReader(data, "TPM quote", "big")
    if (magic := reader.integer(4)) != _TPM_GENERATED:
        raise MalformedEvidenceError(f"TPM quote: it begins with {magic:#010x}, not with TPM_GENERATED")
    if (kind := reader.integer(2)) != _ATTEST_QUOTE:
        raise UnsupportedEvidenceError(f"TPM quote: an attestation of type {kind:#06x}, not of a quote (0x8018)")
    attest = Attest(
        qualified_signer=reader.sized(2),
        extra_data=reader.sized(2),
        clock=reader.integer(8),
        reset_count=reader.integer(4),
        restart_count=reader.integer(4),
        safe=_yes_no(reader.integer(1)),
        firmware=reader.integer(8),
        selection=_selection(reader),
        pcr_digest=reader.sized(2),
    )
    reader.end()
    return attest


def parse_signature(data: bytes) -> Signature:
    """Raises `MalformedEvidenceError`."""
    reader = ByteReader(data, "TPM signature", "big")
    number = reader.integer(2)
    try:
        scheme = SigningScheme(number)
    except ValueError:
        raise UnsupportedEvidenceError(f"TPM signature: scheme {number:#06x} is not accepted") from None
    algorithm = _hash(reader.integer(2), "TPM signature")
    if scheme is SigningScheme.ECDSA:
        r, s = reader.sized(2), reader.sized(2)
        signature = Signature(scheme, algorithm, b"", int.from_bytes(r, "big"), int.from_bytes(s, "big"))
    else:
        signature = Signature(scheme, algorithm, reader.sized(2))
    reader.end()
    return signature


def parse_public(data: bytes) -> Public:
    """The RSA or ECC key in `data`. Raises `MalformedEvidenceError`."""
    reader = ByteReader(data, "TPM key", "big")
    kind = reader.integer(2)
    if kind not in (_RSA, _ECC):
        raise UnsupportedEvidenceError(f"TPM key: type {kind:#06x} is neither RSA nor ECC")
    name_algorithm = _hash(reader.integer(2), "TPM key")
    attributes = ObjectAttribute(reader.integer(4))
    auth_policy = reader.sized(2)
    if reader.integer(2) != _NULL:
        reader.take(4)  # a parent's symmetric key size and mode
    scheme = reader.integer(2)
    if scheme not in (_NULL, *SigningScheme):
        raise UnsupportedEvidenceError(f"TPM key: scheme {scheme:#06x} is not accepted")
    scheme_hash = _NULL if scheme == _NULL else reader.integer(2)
    key: TpmPublicKey = _rsa_key(reader) if kind == _RSA else _ecc_key(reader)
    reader.end()
    return Public(data, name_algorithm, attributes, auth_policy, scheme, scheme_hash, key)


def _rsa_key(reader: ByteReader) -> rsa.RSAPublicKey:
    bits = reader.integer(2)
    if (exponent := reader.integer(4)) not in (0, 65537):
        raise UnsupportedEvidenceError(f"TPM key: RSA exponent {exponent}, not 65537")
    modulus = reader.sized(2)
    return rsa_public_key(modulus, bits)


def rsa_public_key(modulus: bytes, bits: int) -> rsa.RSAPublicKey:
    """The RSA key with exponent 65537. Raises `MalformedEvidenceError`."""
    number = int.from_bytes(modulus, "big")
    if bits not in (2048, 3072, 4096) or number.bit_length() != bits or len(modulus) * 8 != bits or not number & 1:
        raise MalformedEvidenceError(
            f"TPM key: an RSA modulus of {number.bit_length()} bits where {bits} were announced"
        )
    try:
        return rsa.RSAPublicNumbers(65537, number).public_key()
    except ValueError as error:
        raise MalformedEvidenceError(f"TPM key: no RSA key: {error}") from None


def _ecc_key(reader: ByteReader) -> ec.EllipticCurvePublicKey:
    number = reader.integer(2)
    curve = _CURVES.get(number)
    if curve is None:
        raise UnsupportedEvidenceError(f"TPM key: curve {number:#06x} is not accepted")
    if reader.integer(2) != _NULL:
        reader.take(2)  # the key derivation's hash
    size = (curve.key_size + 7) // 8
    x, y = reader.sized(2), reader.sized(2)
    if len(x) > size or len(y) > size:
        raise MalformedEvidenceError(f"TPM key: a coordinate has more than {size} bytes")
    try:
        return ec.EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), curve).public_key()
    except ValueError as error:
        raise MalformedEvidenceError(f"TPM key: no point on {curve.name}: {error}") from None


def _selection(reader: ByteReader) -> Mapping[int, tuple[int, ...]]:
    """TPML_PCR_SELECTION (10.9.7). A bank twice would make the order of pcrDigest ambiguous."""
    selection: dict[int, tuple[int, ...]] = {}
    count = reader.integer(4)
    if count > 16:
        raise MalformedEvidenceError(f"TPM quote: {count} banks selected; a TPM has at most 16")
    for _ in range(count):
        algorithm = reader.integer(2)
        octets = reader.take(reader.integer(1))
        bits = int.from_bytes(octets, "little")
        if len(octets) > 4 or bits >> PCR_COUNT:
            raise MalformedEvidenceError(f"TPM quote: a PCR beyond {PCR_COUNT - 1} is selected")
        if algorithm in selection:
            raise MalformedEvidenceError(f"TPM quote: bank {algorithm:#06x} is selected twice")
        selection[algorithm] = tuple(register for register in range(PCR_COUNT) if bits >> register & 1)
    return selection


def _hash(number: int, name: str) -> HashAlgorithm:
    algorithm = HashAlgorithm.known(number)
    # SHA-1 has collisions: two states could have one signature, two keys one name.
    if algorithm is None or algorithm is HashAlgorithm.SHA1:
        raise UnsupportedEvidenceError(f"{name}: hash algorithm {number:#06x} is not accepted")
    return algorithm


def _yes_no(number: int) -> bool:
    if number not in (0, 1):
        raise MalformedEvidenceError(f"TPM quote: {number} where yes (1) or no (0) is expected")
    return number == 1
