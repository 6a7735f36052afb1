"""A TPM in Python that signs whatever it is told: quotes that differ from genuine ones in what a test asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from keep_attestation.event_log.event import HashAlgorithm
from keep_attestation.evidence import Binding, Endorsements, Evidence
from keep_attestation.tpm.structures import ObjectAttribute, SigningScheme
from keep_protocol.evidence import EvidenceKind
from keep_protocol.tpm_evidence import encode_tpm_bundle

AT = datetime(2026, 6, 1, 12, tzinfo=UTC)
NONCE = b"nonce of 32 bytes is what we use"
SHA256 = HashAlgorithm.SHA256
PCRS = {index: bytes([index + 1] * 32) for index in (0, 4, 7)}
AK_ATTRIBUTES = (
    ObjectAttribute.FIXED_TPM
    | ObjectAttribute.FIXED_PARENT
    | ObjectAttribute.SENSITIVE_DATA_ORIGIN
    | ObjectAttribute.USER_WITH_AUTH
    | ObjectAttribute.RESTRICTED
    | ObjectAttribute.SIGN
)

_HASHES: Mapping[HashAlgorithm, hashes.HashAlgorithm] = {
    HashAlgorithm.SHA1: hashes.SHA1(),
    HashAlgorithm.SHA256: hashes.SHA256(),
    HashAlgorithm.SHA384: hashes.SHA384(),
}


def u16(value: int) -> bytes:
    return value.to_bytes(2, "big")


def u32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def sized(content: bytes) -> bytes:
    return u16(len(content)) + content


def selection_of(banks: Mapping[int, Any]) -> bytes:
    """TPML_PCR_SELECTION of the registers in `banks`."""
    encoded = u32(len(banks))
    for bank, registers in banks.items():
        encoded += u16(bank) + b"\x03" + sum(1 << register for register in registers).to_bytes(3, "little")
    return encoded


@dataclass
class ForgedTpm:
    """One attestation key; ECDSA on P-256 unless given another."""

    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )
    scheme: SigningScheme = SigningScheme.ECDSA
    hash: HashAlgorithm = SHA256
    attributes: ObjectAttribute = AK_ATTRIBUTES

    def public(self, *, scheme: int | None = None) -> bytes:
        """TPMT_PUBLIC."""
        numbers = self.key.public_key().public_numbers()
        number = int(self.scheme) if scheme is None else scheme
        encoded_scheme = u16(0x10) if number == 0x10 else u16(number) + u16(self.hash)
        head = u16(SHA256) + u32(self.attributes) + sized(b"") + u16(0x10) + encoded_scheme
        if isinstance(numbers, rsa.RSAPublicNumbers):
            size = (numbers.n.bit_length() + 7) // 8
            return u16(0x1) + head + u16(size * 8) + u32(0) + sized(numbers.n.to_bytes(size, "big"))
        curve = {"secp256r1": 3, "secp384r1": 4, "secp521r1": 5}[numbers.curve.name]
        size = (numbers.curve.key_size + 7) // 8
        point = sized(numbers.x.to_bytes(size, "big")) + sized(numbers.y.to_bytes(size, "big"))
        return u16(0x23) + head + u16(curve) + u16(0x10) + point

    def attest(
        self,
        pcrs: Mapping[int, Mapping[int, bytes]],
        nonce: bytes = NONCE,
        *,
        magic: int = 0xFF544347,
        kind: int = 0x8018,
        selection: bytes | None = None,
        digest: bytes | None = None,
    ) -> bytes:
        """TPMS_ATTEST over `pcrs`."""
        if digest is None:
            values = (bank[register] for bank in pcrs.values() for register in sorted(bank))
            digest = self.hash.digest(b"".join(values))
        clock = (1000).to_bytes(8, "big") + u32(3) + u32(0) + b"\x01" + (0x2019).to_bytes(8, "big")
        chosen = selection_of(pcrs) if selection is None else selection
        return u32(magic) + u16(kind) + sized(b"signer") + sized(nonce) + clock + chosen + sized(digest)

    def sign(self, message: bytes) -> bytes:
        """TPMT_SIGNATURE."""
        digest, head = _HASHES[self.hash], u16(self.scheme) + u16(self.hash)
        if isinstance(self.key, ec.EllipticCurvePrivateKey):
            halves = utils.decode_dss_signature(self.key.sign(message, ec.ECDSA(digest)))
            size = (self.key.curve.key_size + 7) // 8
            return head + b"".join(sized(half.to_bytes(size, "big")) for half in halves)
        scheme: padding.AsymmetricPadding = padding.PKCS1v15()
        if self.scheme is SigningScheme.RSAPSS:
            scheme = padding.PSS(padding.MGF1(digest), padding.PSS.MAX_LENGTH)
        return head + sized(self.key.sign(message, scheme, digest))

    def bundle(self, **changes: Any) -> bytes:
        """The body of evidence; `message` and what `encode_tpm_bundle` takes may be changed."""
        pcrs = changes.pop("pcrs", {SHA256: PCRS})
        message = changes.pop("message", None) or self.attest(pcrs)
        parts: dict[str, Any] = {
            "quote": message,
            "signature": self.sign(message),
            "ak": self.public(),
            "pcrs": pcrs,
        }
        return encode_tpm_bundle(**(parts | changes))


def tpm_evidence(
    body: bytes, *, certificates: tuple[bytes, ...] = (), crls: tuple[bytes, ...] = (), log: bytes | None = None
) -> Evidence:
    endorsements = Endorsements(certificates=certificates, crls=crls)
    return Evidence(kind=EvidenceKind.TPM, body=body, endorsements=endorsements, log=log)


BINDING = Binding(qualifying_data=NONCE)
