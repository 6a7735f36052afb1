"""The seam to dcap-qvl, which appraises a quote by Intel's collateral: CRLs, signers, QE identity, TCB levels.

Offline always: its fetching functions, whose default service is not Intel's, are not used.
"""

from __future__ import annotations

from datetime import datetime

import dcap_qvl
import msgspec

from keep_attestation.intel.collateral import CollateralBundle, decode_hex
from keep_attestation.intel.tcb_status import TcbStatus


class Appraisal(msgspec.Struct, frozen=True, kw_only=True):
    """What the collateral says of the platform that signed a quote."""

    status: TcbStatus
    advisories: tuple[str, ...]
    ppid: bytes
    fmspc: bytes


class _Tcb(msgspec.Struct, frozen=True):
    status: TcbStatus
    advisory_ids: tuple[str, ...]


class _Pck(msgspec.Struct, frozen=True):
    ppid: list[int]
    fmspc: list[int]


class _Platform(msgspec.Struct, frozen=True):
    pck: _Pck


class _Claims(msgspec.Struct, frozen=True):
    """Of the library's claims, version 1."""

    claims_version: int
    tcb: _Tcb
    platform: _Platform


def appraise(quote: bytes, bundle: CollateralBundle, root: bytes, at: datetime) -> Appraisal | str:
    """The appraisal of the raw `quote` at `at`, or why there is none.

    `root` is the trusted root in DER. The quote must be cut to its end: the library ignores what follows it. Raises
    `MalformedEvidenceError` for what is not hex in `bundle`.
    """
    collateral = dcap_qvl.QuoteCollateralV3(
        bundle.pck_crl_issuer_chain,
        decode_hex(bundle.root_ca_crl, "root CRL"),
        decode_hex(bundle.pck_crl, "PCK CRL"),
        bundle.tcb_info_issuer_chain,
        bundle.tcb_info,
        decode_hex(bundle.tcb_info_signature, "TCB info's signature"),
        bundle.qe_identity_issuer_chain,
        bundle.qe_identity,
        decode_hex(bundle.qe_identity_signature, "QE identity's signature"),
    )
    now = int(at.timestamp())
    try:
        # claims_only: the library's own policies refuse whole classes of servers; ours are rules over the facts.
        policy = dcap_qvl.QuotePolicy.claims_only(now)
        claims = dcap_qvl.QuoteVerifier(root).verify_with_policy(quote, collateral, now, policy).to_json()
    except (ValueError, OverflowError) as error:
        return str(error).removeprefix("Verification failed: ")
    except BaseException as error:
        # A Rust panic arrives as a BaseException of a class that cannot be imported; it must not end a verifier.
        if type(error).__name__ != "PanicException":
            raise
        return f"the verification library failed: {error}"
    try:
        decoded = msgspec.json.decode(claims, type=_Claims)
    except msgspec.DecodeError as error:
        return f"the verification library's claims are of an unknown form: {error}"
    if decoded.claims_version != 1:
        return f"the verification library's claims are of version {decoded.claims_version}; 1 is known"
    return Appraisal(
        status=decoded.tcb.status,
        advisories=decoded.tcb.advisory_ids,
        ppid=bytes(decoded.platform.pck.ppid),
        fmspc=bytes(decoded.platform.pck.fmspc),
    )
