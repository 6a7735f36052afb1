"""Takes TD quotes as Azure gives them, and compares a TDREPORT with the quote that is said to be made of it.

Layouts: Intel TDX module 1.5 ABI, 3.9 (TDREPORT_STRUCT); Intel TDX DCAP quoting library, A.3 (TD quote body).
"""

from __future__ import annotations

from keep_attestation.errors import MalformedEvidenceError, UnsupportedEvidenceError

TDREPORT_SIZE = 1024

_TDX_TYPE = 0x81
_REPORT_DATA = slice(128, 192)
_TD_INFO = slice(512, 912)
"""TDINFO up to RTMR3: attributes, XFAM, MRTD, MRCONFIGID, MROWNER, MROWNERCONFIG, RTMR0 to RTMR3."""
_QUOTED_TD_INFO = slice(120, 520)
"""The same fields in the same order in the quote's body."""
_QUOTED_REPORT_DATA = slice(520, 584)
_TD10_BODY_SIZE = 584
_BODY_OFFSETS = {4: 48, 5: 54}
"""Of the body in the quote, by version; version 5 has a type and a size before it."""


def unpadded_quote(quote: bytes) -> bytes:
    """`quote` without the zeros that Azure's service leaves after it; other bytes there stay and are refused later."""
    version = int.from_bytes(quote[:2], "little")
    if version not in _BODY_OFFSETS:
        return quote
    offset = _BODY_OFFSETS[version]
    body_size = _TD10_BODY_SIZE if version == 4 else int.from_bytes(quote[offset - 4 : offset], "little")
    signature = offset + body_size + 4
    end = signature + int.from_bytes(quote[signature - 4 : signature], "little")
    return quote if any(quote[end:]) else quote[:end]


def tdreport_problem(report: bytes, quote: bytes) -> str | None:
    """Why `quote` is not made of the TDREPORT in `report` (1024 bytes, then zeros), or None if it is.

    Raises `MalformedEvidenceError`.
    """
    if len(report) < TDREPORT_SIZE or any(report[TDREPORT_SIZE:]):
        raise MalformedEvidenceError("TDREPORT: it is not 1024 bytes with zeros after it")
    if report[0] != _TDX_TYPE:
        raise UnsupportedEvidenceError(f"TDREPORT: type {report[0]:#x}, not 0x81 (TDX)")
    version = int.from_bytes(quote[:2], "little")
    if version not in _BODY_OFFSETS:
        raise UnsupportedEvidenceError(f"TD quote: version {version}; known are 4 and 5")
    body = quote[_BODY_OFFSETS[version] :]
    if body[_QUOTED_TD_INFO] != report[_TD_INFO]:
        return "the TD quote's measurements are not those of the TDREPORT in the HCL report"
    if body[_QUOTED_REPORT_DATA] != report[_REPORT_DATA]:
        return "the TD quote's REPORTDATA is not that of the TDREPORT in the HCL report"
    return None
