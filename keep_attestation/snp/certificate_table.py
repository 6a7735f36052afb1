"""Endorsements as hosts hand them to guests: the GHCB certificate table, Azure's THIM reply, PEM chains."""

from __future__ import annotations

from uuid import UUID

import msgspec

from keep_attestation.byte_reader import ByteReader
from keep_attestation.certificates import MAX_CERTIFICATE_SIZE, read_certificates
from keep_attestation.errors import MalformedEvidenceError
from keep_attestation.evidence import Endorsements

MAX_TABLE_SIZE = 256 * 1024
MAX_THIM_SIZE = 64 * 1024

_CERTIFICATE_NAMES = {
    UUID("63da758d-e664-4564-adc5-f4b93be8accd"): "VCEK",
    UUID("a8074bc2-a25a-483e-aae6-39c045a0b8a1"): "VLEK",
    # One GUID for both: which of the two it is depends on the key beside it.
    UUID("4ab7b379-bbac-4fe4-a02f-05aef327c782"): "ASK",
    UUID("c0b406a4-a803-4952-9743-3fb6014cd0ae"): "ARK",
}
_NO_GUID = bytes(16)


def endorsements_of_table(data: bytes) -> Endorsements:
    """The certificates in a table (configfs-tsm `auxblob`, SNP_GET_EXT_REPORT), none if it is empty.

    Layout (GHCB, AMD 56421, "SNP Extended Guest Request"): entries {GUID in RFC 4122 byte order, u32 offset,
    u32 length}, little endian, ended by a zero entry. Entries with other GUIDs are the host's own and are passed over.
    Raises `MalformedEvidenceError`.
    """
    if len(data) > MAX_TABLE_SIZE:
        raise MalformedEvidenceError(f"a certificate table has {len(data)} bytes; at most {MAX_TABLE_SIZE} are read")
    if not data:
        return Endorsements()
    found: dict[str, bytes] = {}
    reader = ByteReader(data, "certificate table", "little")
    while (guid := reader.take(16)) != _NO_GUID:
        offset, length = reader.integer(4), reader.integer(4)
        name = _CERTIFICATE_NAMES.get(UUID(bytes=guid))
        if name is None:
            continue
        if name in found:
            raise MalformedEvidenceError(f"certificate table: it has two entries for the {name}")
        if not 0 < length <= MAX_CERTIFICATE_SIZE or offset + length > len(data):
            raise MalformedEvidenceError(
                f"certificate table: the {name} is said to be {length} bytes at {offset:#x} of {len(data)}"
            )
        found[name] = data[offset : offset + length]
    return Endorsements(certificates=tuple(found.values()))


class _ThimReply(msgspec.Struct, frozen=True):
    """Members that are not read here (`tcbm`, `cacheControl`, …) may be there."""

    vcek_cert: str = msgspec.field(name="vcekCert")
    certificate_chain: str = msgspec.field(name="certificateChain", default="")


def endorsements_of_thim(data: bytes) -> Endorsements:
    """The certificates in a reply of Azure's host certificate service (THIM, `…/metadata/THIM/amd/certification`).

    Raises `MalformedEvidenceError`.
    """
    if len(data) > MAX_THIM_SIZE:
        raise MalformedEvidenceError(f"a THIM reply has {len(data)} bytes; at most {MAX_THIM_SIZE} are read")
    try:
        reply = msgspec.json.decode(data, type=_ThimReply)
    # RecursionError: msgspec guards nested JSON by Python's own limit.
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedEvidenceError(f"a THIM reply is not the JSON that Azure documents: {error}") from None
    return endorsements_of_pem(f"{reply.vcek_cert}\n{reply.certificate_chain}".encode(errors="replace"))


def endorsements_of_pem(data: bytes) -> Endorsements:
    """The certificates of a PEM chain (or one in DER). Raises `MalformedEvidenceError`."""
    return Endorsements(certificates=tuple(certificate.der for certificate in read_certificates(data)))
