"""Parses Intel's ECDSA quotes, versions 3, 4 and 5, to their last byte."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import IntEnum

from keep_attestation.byte_reader import ByteReader
from keep_attestation.errors import MalformedEvidenceError, UnsupportedEvidenceError
from keep_attestation.intel.reports import (
    ENCLAVE_REPORT_SIZE,
    TD_REPORT_10_SIZE,
    TD_REPORT_15_SIZE,
    EnclaveReport,
    TdReport,
    parse_enclave_report,
    parse_td_report,
)

_HEADER_SIZE = 48
_ECDSA_P256 = 2
_INTEL_QE_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
_TEE_SGX = 0x00
_TEE_TDX = 0x81


class CertificationDataType(IntEnum):
    """What vouches for the attestation key (SGX ECDSA Quote Library API, table 9)."""

    PPID_PLAIN = 1
    PPID_RSA_2048 = 2
    PPID_RSA_3072 = 3
    PCK_LEAF = 4
    PCK_CHAIN = 5
    QE_REPORT = 6
    PLATFORM_MANIFEST = 7


class _BodyType(IntEnum):
    """Of version 5 quotes (TDX DCAP Quote Generation Library, appendix 3.3)."""

    ENCLAVE = 1
    TD_10 = 2
    TD_15 = 3


_BODY_SIZES = {
    _BodyType.ENCLAVE: ENCLAVE_REPORT_SIZE,
    _BodyType.TD_10: TD_REPORT_10_SIZE,
    _BodyType.TD_15: TD_REPORT_15_SIZE,
}


@dataclass(frozen=True, slots=True)
class QuoteHeader:
    """The first 48 bytes."""

    version: int
    attestation_key_type: int
    tee_type: int
    qe_svn: int
    """Zero since version 4, as `pce_svn`."""
    pce_svn: int
    qe_vendor_id: bytes
    user_data: bytes


@dataclass(frozen=True, slots=True)
class Quote:
    """As its bytes say; nothing in it is verified."""

    header: QuoteHeader
    body: EnclaveReport | TdReport
    signed: bytes
    """What `signature` is over: header and body, in version 5 with the body's descriptor between them."""
    signature: bytes
    """r ‖ s, 64 bytes; so is `qe_report_signature`."""
    attestation_key: bytes
    """x ‖ y of a P-256 point, 64 bytes."""
    qe_report: EnclaveReport
    qe_report_signed: bytes
    qe_report_signature: bytes
    qe_authentication_data: bytes
    certification_data_type: CertificationDataType
    certification_data: bytes
    """For `PCK_CHAIN`: PEM, leaf first."""

    @property
    def identity(self) -> str:
        """SHA-256 of the signed part, in hex: signatures are malleable and may not identify a quote."""
        return hashlib.sha256(self.signed).hexdigest()


def parse_quote(data: bytes) -> Quote:
    """The quote in `data`, which must end where the quote ends (see `trim_zero_padding`).

    Layouts: SGX ECDSA Quote Library API, appendix A (version 3); TDX DCAP Quote Generation Library, appendix 3 (4, 5).
    Raises `MalformedEvidenceError`; `UnsupportedEvidenceError` for other versions, key types, vendors and bodies.
    """
    reader = ByteReader(data, "quote", "little")
    header = _header(reader.take(_HEADER_SIZE))
    body = _body(reader, header)
    signed = data[: reader.offset]
    authentication = ByteReader(reader.sized(4), "quote's authentication data", "little")
    reader.end()
    signature, attestation_key = authentication.take(64), authentication.take(64)
    if header.version >= 4:
        kind = authentication.integer(2)
        if kind != CertificationDataType.QE_REPORT:
            raise UnsupportedEvidenceError(
                f"quote: certification data of type {kind} where version {header.version} has type 6 (QE report)"
            )
        certification = ByteReader(authentication.sized(4), "quote's QE report certification data", "little")
        authentication.end()
    else:
        certification = authentication
    qe_report = certification.take(ENCLAVE_REPORT_SIZE)
    qe_report_signature = certification.take(64)
    qe_authentication_data = certification.sized(2)
    certification_type = _certification_type(certification.integer(2))
    certification_data = certification.sized(4)
    certification.end()
    return Quote(
        header=header,
        body=body,
        signed=signed,
        signature=signature,
        attestation_key=attestation_key,
        qe_report=parse_enclave_report(qe_report),
        qe_report_signed=qe_report,
        qe_report_signature=qe_report_signature,
        qe_authentication_data=qe_authentication_data,
        certification_data_type=certification_type,
        certification_data=certification_data,
    )


def trim_zero_padding(data: bytes) -> bytes:
    """The quote at the start of `data` without the zeros that quoting services fill their fixed buffers (8000 bytes)
    with. Anything but zeros after the quote raises `MalformedEvidenceError`."""
    reader = ByteReader(data, "quote", "little")
    _body(reader, _header(reader.take(_HEADER_SIZE)))
    reader.sized(4)
    if any(data[reader.offset :]):
        raise MalformedEvidenceError(f"quote: {reader.remaining} bytes that are not all zero follow its end")
    return data[: reader.offset]


def _header(data: bytes) -> QuoteHeader:
    reader = ByteReader(data, "quote header", "little")
    header = QuoteHeader(
        version=reader.integer(2),
        attestation_key_type=reader.integer(2),
        tee_type=reader.integer(4),
        qe_svn=reader.integer(2),
        pce_svn=reader.integer(2),
        qe_vendor_id=reader.take(16),
        user_data=reader.take(20),
    )
    if header.version not in (3, 4, 5):
        raise UnsupportedEvidenceError(f"quote: version {header.version}; 3, 4 and 5 are known")
    if header.attestation_key_type != _ECDSA_P256:
        raise UnsupportedEvidenceError(
            f"quote: attestation key type {header.attestation_key_type}; only 2 (ECDSA P-256) is accepted"
        )
    # In version 3 these four bytes are reserved and zero, which is SGX.
    if header.tee_type not in ((_TEE_SGX,) if header.version == 3 else (_TEE_SGX, _TEE_TDX)):
        raise UnsupportedEvidenceError(f"quote: TEE type {header.tee_type:#x} in version {header.version}")
    if header.qe_vendor_id != _INTEL_QE_VENDOR:
        raise UnsupportedEvidenceError(f"quote: QE vendor {header.qe_vendor_id.hex()} is not Intel")
    return header


def _body(reader: ByteReader, header: QuoteHeader) -> EnclaveReport | TdReport:
    if header.version >= 5:
        number, size = reader.integer(2), reader.integer(4)
        try:
            kind = _BodyType(number)
        except ValueError:
            raise UnsupportedEvidenceError(f"quote: body type {number}; 1, 2 and 3 are known") from None
        if size != _BODY_SIZES[kind]:
            raise MalformedEvidenceError(f"quote: body of {size} bytes where type {number} has {_BODY_SIZES[kind]}")
        if (kind is _BodyType.ENCLAVE) != (header.tee_type == _TEE_SGX):
            raise MalformedEvidenceError(f"quote: body type {number} with TEE type {header.tee_type:#x}")
    else:
        kind = _BodyType.ENCLAVE if header.tee_type == _TEE_SGX else _BodyType.TD_10
    body = reader.take(_BODY_SIZES[kind])
    return parse_enclave_report(body) if kind is _BodyType.ENCLAVE else parse_td_report(body)


def _certification_type(number: int) -> CertificationDataType:
    try:
        return CertificationDataType(number)
    except ValueError:
        raise UnsupportedEvidenceError(f"quote: unknown certification data type {number}") from None
