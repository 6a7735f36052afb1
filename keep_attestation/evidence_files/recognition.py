"""Tells by its bytes what a file holds: by the marks that each format begins with, not by whether it is valid.

Evidence with a fault in it is still recognised, so that its verifier says what the fault is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress

import msgspec
from asn1crypto import csr, keys, pem

from keep_attestation.certificates import is_pem, read_certificates, read_crl
from keep_attestation.errors import MalformedEvidenceError
from keep_attestation.evidence_files.collateral_forms import has_collateral, in_one_form
from keep_attestation.evidence_files.content import BEARERS, PIECES, WHOLE, Content, Part
from keep_attestation.evidence_files.encoding import octets_of
from keep_attestation.intel.quote import trim_zero_padding
from keep_attestation.ratls.conventions import (
    a3s,
    cocos_legacy,
    dstack,
    enarx,
    gramine,
    intel_sdk,
    keep_evidence,
    tcg_dice,
)
from keep_attestation.ratls.conventions.intel_sdk import EVIDENCE_OID as INTEL_SDK_OID
from keep_attestation.snp.certificate_table import endorsements_of_table
from keep_attestation.snp.report import REPORT_SIZE
from keep_protocol.cmw import COLLECTION_TYPE_KEY
from keep_protocol.evidence import EvidenceKind
from keep_protocol.simulated import FORMAT as SIMULATED_FORMAT

_INTEL_QE_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
_QUOTE_TEES = {0x00: Content.SGX_QUOTE, 0x81: Content.TDX_QUOTE}
_REPORT_HEADER = bytes(4) + REPORT_SIZE.to_bytes(4, "little")
"""MSG_REPORT_RSP, which /dev/sev-guest gives: a status of zero and the report's size, and zeros up to 32 bytes."""
_REPORT_HEADER_SIZE = 32
_OPEN_ENCLAVE_HEADER = bytes.fromhex("0100000002000000")
"""Of oe_report_header_t: version 1, a remote report; the size of the quote in 8 bytes and the quote follow."""
_OPEN_ENCLAVE_HEADER_SIZE = 16
_TPM_QUOTE = bytes.fromhex("ff5443478018")
_TPM_SCHEMES = (0x14, 0x16, 0x18)
_TPM_HASHES = (0x04, 0x0B, 0x0C, 0x0D)
_TPM_KEYS = (0x01, 0x23)
_REGISTER = re.compile(r"(?:pcr)?[0-9]{1,2}", re.ASCII | re.IGNORECASE)
_RSA_SIZES = (256, 384, 512)
_CBOR_MAP = 5
_CONVENTIONS = (a3s, cocos_legacy, dstack, enarx, gramine, intel_sdk, keep_evidence, tcg_dice)
_CERTIFICATE_LABELS = {"CERTIFICATE", "TRUSTED CERTIFICATE"}


class UnknownContentError(MalformedEvidenceError):
    """A file holds nothing that is known here, or may be several things."""


def detect(data: bytes) -> EvidenceKind:
    """The kind of evidence in a file. Raises `UnknownContentError`, also for what is no evidence of one kind."""
    part = recognise(data)
    if part.content not in WHOLE | PIECES:
        raise UnknownContentError(f"this is {part.content}")
    return part.kind


def recognise(data: bytes) -> Part:
    """What `data` is. Raises `UnknownContentError`, which names what was looked for."""
    octets = octets_of(data)
    found = [part for look in _LOOKS for part in look(octets)]
    if len(found) == 1:
        return found[0]
    if found:
        several = " and ".join(part.content for part in found)
        raise UnknownContentError(f"this may be {several}: say which with --kind")
    if len(octets) in _RSA_SIZES:
        return Part(Content.RAW_SIGNATURE, octets)
    sought = "; ".join(content for content in Content if content in WHOLE | BEARERS | PIECES)
    raise UnknownContentError(
        f"{len(data)} bytes, beginning with {data[:8].hex() or 'nothing'}, are none of: {sought}; nor are they "
        "certificates, a CRL, collateral, an event log, or a piece of a TPM's quote"
    )


def _reports(data: bytes) -> list[Part]:
    if data[:8] == _REPORT_HEADER and not any(data[8:_REPORT_HEADER_SIZE]):
        return _reports(data[_REPORT_HEADER_SIZE:])
    version, algorithm = _little(data, 0, 4), _little(data, 0x34, 4)
    if len(data) < REPORT_SIZE or not 1 <= version <= 15 or algorithm > 15 or data[32:47] == b"Spec ID Event03":
        return []
    if not any(data[REPORT_SIZE:]):
        return [Part(Content.SNP_REPORT, data[:REPORT_SIZE])]
    return [Part(Content.SNP_EXTENDED_REPORT, data)] if _tables(data[REPORT_SIZE:]) else []


def _quotes(data: bytes) -> list[Part]:
    if data[:8] == _OPEN_ENCLAVE_HEADER and 0 < (size := _little(data, 8, 8)) <= len(data) - _OPEN_ENCLAVE_HEADER_SIZE:
        return _quotes(data[_OPEN_ENCLAVE_HEADER_SIZE : _OPEN_ENCLAVE_HEADER_SIZE + size])
    content = _QUOTE_TEES.get(_little(data, 4, 4))
    known_version = 3 <= _little(data, 0, 2) <= 5 and _little(data, 2, 2) in (2, 3)
    if content is None or len(data) < 48 or not (known_version or data[12:28] == _INTEL_QE_VENDOR):
        return []
    # What is wrong with it its verifier says, with the verdict.
    with suppress(MalformedEvidenceError):
        data = trim_zero_padding(data)
    return [Part(content, data)]


def _documents(data: bytes) -> list[Part]:
    untagged = data.removeprefix(b"\xd2")
    is_array = untagged[:1] in (b"\x84", b"\x9f")
    return [Part(Content.NITRO_DOCUMENT, data)] if is_array and b"module_id" in data[:1024] else []


def _own_formats(data: bytes) -> list[Part]:
    if data[:1] == b"\x82" and SIMULATED_FORMAT.encode() in data[:128]:
        return [Part(Content.SIMULATED, data)]
    if not data or data[0] >> 5 != _CBOR_MAP:
        return []
    if COLLECTION_TYPE_KEY.encode() in data:
        return [Part(Content.COLLECTION, data)]
    if data[1:2] == b"\x01" and _TPM_QUOTE in data[:16]:
        return [Part(Content.AZURE_BUNDLE if b"HCLA" in data else Content.TPM_BUNDLE, data)]
    return []


def _tpm_structures(data: bytes) -> list[Part]:
    if data[:6] == _TPM_QUOTE:
        return [Part(Content.TPM_QUOTE, data)]
    if len(data) > 2 and _big(data, 0) == len(data) - 2:
        # A TPM2B around it, as tpm2-tools write keys and some services quotes.
        return [part for part in _tpm_structures(data[2:]) if part.content is not Content.TPM_SIGNATURE]
    if len(data) > 8 and _big(data, 0) in _TPM_SCHEMES and _big(data, 2) in _TPM_HASHES:
        return [Part(Content.TPM_SIGNATURE, data)]
    if len(data) > 8 and _big(data, 0) in _TPM_KEYS and _big(data, 2) in _TPM_HASHES:
        return [Part(Content.TPM_KEY, data)]
    return []


def _azure(data: bytes) -> list[Part]:
    return [Part(Content.HCL_REPORT, data)] if data[:4] == b"HCLA" else []


def _logs(data: bytes) -> list[Part]:
    if data[:4] == b"CCEL":
        return [Part(Content.CCEL_TABLE, data)]
    return [Part(Content.EVENT_LOG, data)] if data[32:47] == b"Spec ID Event03" else []


def _tables(data: bytes) -> list[Part]:
    if data[:1] in (b"0", b"-", b"{"):
        return []
    try:
        certificates = endorsements_of_table(data).certificates
    except MalformedEvidenceError:
        return []
    return [Part(Content.CERTIFICATE_TABLE, data)] if certificates else []


def _pem(data: bytes) -> list[Part]:
    if not is_pem(data):
        return []
    try:
        blocks = list(pem.unarmor(data, multiple=True))
    except (ValueError, TypeError):
        return []
    labels = {label for label, _, _ in blocks}
    if len(blocks) > 1:
        # A chain as servers send it: what bears evidence comes first.
        borne = [part for part in _der(blocks[0][2]) if part.content is Content.RATLS_CERTIFICATE]
        return (borne or [Part(Content.CERTIFICATES, data)]) if labels <= _CERTIFICATE_LABELS else []
    return _der(blocks[0][2])


def _der(data: bytes) -> list[Part]:
    if data[:1] != b"0":
        return []
    return _certificates(data) or _lists(data) or _requests(data) or _public_keys(data)


def _certificates(data: bytes) -> list[Part]:
    try:
        certificate, *others = read_certificates(data)
    except MalformedEvidenceError:
        return []
    if _bears_evidence(certificate.extensions):
        return [Part(Content.RATLS_CERTIFICATE, certificate.der)]
    return [Part(Content.CERTIFICATES, data if others else certificate.der)]


def _bears_evidence(extensions: Mapping[str, bytes]) -> bool:
    """Whether a certificate has an extension of any convention for evidence."""
    # Intel's own certificates for platforms have a SEQUENCE under the identifier of the SDK's quotes.
    if extensions.get(INTEL_SDK_OID, b"").startswith(b"0"):
        return False
    return any(oid in extensions for convention in _CONVENTIONS for oid in convention.EVIDENCE_OIDS)


def _lists(data: bytes) -> list[Part]:
    try:
        read_crl(data)
    except MalformedEvidenceError:
        return []
    return [Part(Content.CRL, data)]


def _requests(data: bytes) -> list[Part]:
    try:
        body = csr.CertificationRequest.load(data, strict=True)["certification_request_info"]
        is_request = body["version"].native == "v1" and bool(body["subject_pk_info"].dump())
    # asn1crypto raises whatever its parts raise.
    except Exception:
        return []
    return [Part(Content.RATLS_REQUEST, data)] if is_request else []


def _public_keys(data: bytes) -> list[Part]:
    try:
        keys.PublicKeyInfo.load(data, strict=True)["algorithm"]["algorithm"].dump()
    # As above.
    except Exception:
        return []
    return [Part(Content.PUBLIC_KEY, data)]


def _json(data: bytes) -> list[Part]:
    if data.lstrip()[:1] not in (b"{", b"["):
        return []
    try:
        document = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []
    match document:
        case {"__cmwc_t": _}:
            return [Part(Content.COLLECTION, data)]
        case {"vcekCert": str()}:
            return [Part(Content.THIM_REPLY, data)]
        case dict() if has_collateral(document):
            return [Part(Content.COLLATERAL, in_one_form(data))]
        case {"tcbInfo": dict(), "signature": str()} | {"enclaveIdentity": dict(), "signature": str()}:
            return [Part(Content.PCS_REPLY, data)]
        case {"quote": str() as quote}:
            # With a log beside it only TDX's are; an enclave's quote is all that there is.
            enclaves = [part for part in _quotes(octets_of(quote.encode())) if part.content is Content.SGX_QUOTE]
            return enclaves or [Part(Content.QUOTE_IN_JSON, data)]
        case [{"imr": int(), "digest": str()}, *_]:
            return [Part(Content.EVENT_LOG, data)]
        case list() if document and all(map(_is_digest, document)):
            return [Part(Content.PCR_VALUES, data)]
        case dict() if document and all(_is_register(*entry) or _is_bank(*entry) for entry in document.items()):
            return [Part(Content.PCR_VALUES, data)]
    return []


def _is_register(name: object, value: object) -> bool:
    return isinstance(name, str) and _REGISTER.fullmatch(name) is not None and _is_digest(value)


def _is_bank(name: object, value: object) -> bool:
    return name in ("sha1", "sha256", "sha384", "sha512") and isinstance(value, dict) and bool(value)


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and len(value.removeprefix("0x")) in (40, 64, 96, 128)


def _little(data: bytes, offset: int, size: int) -> int:
    return int.from_bytes(data[offset : offset + size], "little")


def _big(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 2], "big")


_LOOKS: tuple[Callable[[bytes], list[Part]], ...] = (
    _reports,
    _quotes,
    _documents,
    _own_formats,
    _tpm_structures,
    _azure,
    _logs,
    _tables,
    _pem,
    _der,
    _json,
)
