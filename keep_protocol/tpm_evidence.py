"""The body of TPM and Azure evidence: one deterministic CBOR map. Keeps write it, verifiers read it.

A quote is of no use without the values it was made over and the key it is to be checked with, so they travel together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from keep_protocol.evidence import encode_cbor

PcrValues = Mapping[int, Mapping[int, bytes]]
"""By TPM_ALG_ID of the bank and number of the register."""


class TpmBundleKey:
    """Keys of the map. 1 to 7 are of TPM evidence; Azure's has 1, 2, 4, 8 and 9."""

    QUOTE = 1
    """TPMS_ATTEST."""
    SIGNATURE = 2
    """TPMT_SIGNATURE."""
    AK = 3
    """TPMT_PUBLIC of the attestation key."""
    PCRS = 4
    """`PcrValues`."""
    AK_CERTIFICATE = 5
    """DER; optional, like the two that follow."""
    INTERMEDIATES = 6
    """Array of DER."""
    EK_CERTIFICATE = 7
    """DER."""
    HCL_REPORT = 8
    """Azure's host compatibility layer's report, which holds the hardware's."""
    TD_QUOTE = 9
    """Azure on TDX: the quote made of the TDREPORT in the HCL report."""


def encode_tpm_bundle(
    *,
    quote: bytes,
    signature: bytes,
    ak: bytes,
    pcrs: PcrValues,
    ak_certificate: bytes | None = None,
    intermediates: Sequence[bytes] = (),
    ek_certificate: bytes | None = None,
) -> bytes:
    """The body of TPM evidence."""
    return _encode(
        {
            TpmBundleKey.QUOTE: quote,
            TpmBundleKey.SIGNATURE: signature,
            TpmBundleKey.AK: ak,
            TpmBundleKey.PCRS: {bank: dict(values) for bank, values in pcrs.items()},
            TpmBundleKey.AK_CERTIFICATE: ak_certificate,
            TpmBundleKey.INTERMEDIATES: list(intermediates) or None,
            TpmBundleKey.EK_CERTIFICATE: ek_certificate,
        }
    )


def encode_azure_bundle(
    *, quote: bytes, signature: bytes, pcrs: PcrValues, hcl_report: bytes, td_quote: bytes | None = None
) -> bytes:
    """The body of Azure evidence; the attestation key is in the HCL report."""
    return _encode(
        {
            TpmBundleKey.QUOTE: quote,
            TpmBundleKey.SIGNATURE: signature,
            TpmBundleKey.PCRS: {bank: dict(values) for bank, values in pcrs.items()},
            TpmBundleKey.HCL_REPORT: hcl_report,
            TpmBundleKey.TD_QUOTE: td_quote,
        }
    )


def _encode(entries: Mapping[int, bytes | list[bytes] | dict[int, dict[int, bytes]] | None]) -> bytes:
    # Each value is encoded by itself: types of containers are invariant.
    present = {key: value for key, value in entries.items() if value is not None}
    head = bytes([0xA0 | len(present)])
    return head + b"".join(encode_cbor(key) + _encode_value(present[key]) for key in sorted(present))


def _encode_value(value: bytes | list[bytes] | dict[int, dict[int, bytes]]) -> bytes:
    match value:
        case bytes():
            return encode_cbor(value)
        case list():
            return encode_cbor([*value])
        case dict():
            return encode_cbor({bank: {**values} for bank, values in value.items()})
