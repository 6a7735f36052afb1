"""Reads the body of Azure evidence; the layout is `keep_protocol.tpm_evidence`."""

from __future__ import annotations

from dataclasses import dataclass

from keep_attestation.errors import MalformedEvidenceError
from keep_attestation.tpm.bundle import bundle_entries, octets, pcr_banks
from keep_attestation.tpm.quote import PcrBanks
from keep_protocol.tpm_evidence import TpmBundleKey, encode_azure_bundle

_KNOWN = frozenset(
    {
        TpmBundleKey.QUOTE,
        TpmBundleKey.SIGNATURE,
        TpmBundleKey.PCRS,
        TpmBundleKey.HCL_REPORT,
        TpmBundleKey.TD_QUOTE,
    }
)


@dataclass(frozen=True, slots=True)
class AzureBundle:
    """The parts as they came; nothing in them is verified."""

    quote: bytes
    """TPMS_ATTEST."""
    signature: bytes
    """TPMT_SIGNATURE."""
    pcrs: PcrBanks
    hcl_report: bytes
    td_quote: bytes | None
    """On TDX; made of the TDREPORT in the HCL report."""

    def encode(self) -> bytes:
        """The body of evidence."""
        return encode_azure_bundle(
            quote=self.quote,
            signature=self.signature,
            pcrs={int(bank): values for bank, values in self.pcrs.items()},
            hcl_report=self.hcl_report,
            td_quote=self.td_quote,
        )


def decode_azure_bundle(data: bytes) -> AzureBundle:
    """The bundle in `data`, which must be its one deterministic encoding. Raises `MalformedEvidenceError`."""
    entries = bundle_entries(data, "Azure bundle", _KNOWN)
    bundle = AzureBundle(
        quote=octets(entries, TpmBundleKey.QUOTE, "the quote"),
        signature=octets(entries, TpmBundleKey.SIGNATURE, "the signature"),
        pcrs=pcr_banks(entries),
        hcl_report=octets(entries, TpmBundleKey.HCL_REPORT, "the HCL report"),
        td_quote=octets(entries, TpmBundleKey.TD_QUOTE, "the TD quote") if TpmBundleKey.TD_QUOTE in entries else None,
    )
    if bundle.encode() != data:
        raise MalformedEvidenceError("Azure bundle: it is not in deterministic CBOR")
    return bundle
