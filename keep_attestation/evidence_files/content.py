"""What a file can hold that has to do with evidence."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from keep_attestation.errors import UnsupportedEvidenceError
from keep_protocol.evidence import EvidenceKind


class Content(StrEnum):
    """Told apart by the bytes, never by the file's name. The values are for people."""

    SNP_REPORT = "an AMD SEV-SNP report"
    TDX_QUOTE = "an Intel TDX quote"
    SGX_QUOTE = "an Intel SGX quote"
    NITRO_DOCUMENT = "an AWS Nitro document"
    TPM_BUNDLE = "a TPM bundle of wasmkeep"
    AZURE_BUNDLE = "an Azure bundle of wasmkeep"
    SIMULATED = "simulated evidence of wasmkeep"
    COLLECTION = "a keep's collection (RFC 9999)"
    RATLS_CERTIFICATE = "a certificate with evidence"
    RATLS_REQUEST = "a certification request"
    QUOTE_IN_JSON = "a TDX quote in JSON"
    SNP_EXTENDED_REPORT = "an AMD SEV-SNP report with the host's certificate table"

    TPM_QUOTE = "a TPM quote (TPMS_ATTEST)"
    TPM_SIGNATURE = "a TPM signature (TPMT_SIGNATURE)"
    RAW_SIGNATURE = "a bare RSA signature"
    TPM_KEY = "a TPM key (TPMT_PUBLIC)"
    PUBLIC_KEY = "a public key"
    PCR_VALUES = "PCR values in JSON"
    HCL_REPORT = "a report of Azure's host compatibility layer"

    CERTIFICATES = "certificates"
    CRL = "a certificate revocation list"
    CERTIFICATE_TABLE = "a host's certificate table"
    THIM_REPLY = "a reply of Azure's certificate service (THIM)"
    COLLATERAL = "Intel's collateral"
    PCS_REPLY = "a reply of Intel's service (PCS)"
    EVENT_LOG = "an event log"
    CCEL_TABLE = "an ACPI table (CCEL), not the log itself"


WHOLE = frozenset(
    {
        Content.SNP_REPORT,
        Content.TDX_QUOTE,
        Content.SGX_QUOTE,
        Content.NITRO_DOCUMENT,
        Content.TPM_BUNDLE,
        Content.AZURE_BUNDLE,
        Content.SIMULATED,
        Content.QUOTE_IN_JSON,
        Content.SNP_EXTENDED_REPORT,
    }
)
"""Evidence in one file."""

BEARERS = frozenset({Content.COLLECTION, Content.RATLS_CERTIFICATE, Content.RATLS_REQUEST})
"""Evidence with what it is bound to."""

PIECES = frozenset({Content.TPM_QUOTE, Content.HCL_REPORT})
"""Evidence that other files of the folder make whole."""

_KINDS = {
    Content.SNP_REPORT: EvidenceKind.SNP,
    Content.TDX_QUOTE: EvidenceKind.TDX,
    Content.QUOTE_IN_JSON: EvidenceKind.TDX,
    Content.SNP_EXTENDED_REPORT: EvidenceKind.SNP,
    Content.SGX_QUOTE: EvidenceKind.SGX,
    Content.NITRO_DOCUMENT: EvidenceKind.NITRO,
    Content.TPM_BUNDLE: EvidenceKind.TPM,
    Content.TPM_QUOTE: EvidenceKind.TPM,
    Content.SIMULATED: EvidenceKind.SIMULATED,
}

_HCL_REPORT_TYPE = 32 + 1184 + 8
"""Behind the header, the hardware's report, and the size and version of what follows it."""
_HCL_KINDS = {2: EvidenceKind.AZURE_SNP, 4: EvidenceKind.AZURE_TDX}


@dataclass(frozen=True, slots=True)
class Part:
    """One file's content, decoded from hex or base64 and without padding."""

    content: Content
    data: bytes

    @property
    def kind(self) -> EvidenceKind:
        """The kind of evidence that this is, or is a piece of. Raises `UnsupportedEvidenceError`."""
        if self.content in (Content.HCL_REPORT, Content.AZURE_BUNDLE):
            start = self.data.find(b"HCLA") + _HCL_REPORT_TYPE
            number = int.from_bytes(self.data[start : start + 4], "little")
            if number not in _HCL_KINDS:
                raise UnsupportedEvidenceError(f"Azure's report is of type {number}; 2 (SNP) and 4 (TDX) are known")
            return _HCL_KINDS[number]
        if self.content not in _KINDS:
            raise UnsupportedEvidenceError(f"{self.content} is no evidence of one kind")
        return _KINDS[self.content]
