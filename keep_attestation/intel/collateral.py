"""Reads Intel's collateral: TCB info, QE identity, CRLs and the chains of their signers, with their dates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Literal, TypeVar

import msgspec

from keep_attestation.certificates import Certificate, RevocationList, issued_by, read_certificates, read_crl
from keep_attestation.errors import MalformedEvidenceError
from keep_attestation.verdict import CollateralDates

_Decoded = TypeVar("_Decoded")

MAX_COLLATERAL_SIZE = 512 * 1024
"""Bytes; real collateral has about 25 KiB."""
MAX_CHAIN_LENGTH = 8
"""Real chains have three certificates; reading one costs a millisecond."""

_PEM_BEGIN = b"-----BEGIN CERTIFICATE-----"


class CollateralBundle(msgspec.Struct, frozen=True, kw_only=True):
    """The bundle as it travels: JSON with the members of dcap-qvl's `QuoteCollateralV3`; bytes are hex."""

    pck_crl_issuer_chain: str
    root_ca_crl: str
    pck_crl: str
    tcb_info_issuer_chain: str
    tcb_info: str
    """JSON, exactly as signed; so is `qe_identity`."""
    tcb_info_signature: str
    qe_identity_issuer_chain: str
    qe_identity: str
    qe_identity_signature: str


class _Signed(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """Members that TCB info version 3 and enclave identity version 2 share (Intel PCS API version 4)."""

    issue_date: datetime
    next_update: datetime
    tcb_evaluation_data_number: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]

    @property
    def period(self) -> tuple[datetime, datetime]:
        return self.issue_date, self.next_update


class _TcbInfo(_Signed, frozen=True, rename="camel", kw_only=True):
    id: Literal["SGX", "TDX"]
    fmspc: str
    pce_id: str


class _QeIdentity(_Signed, frozen=True, rename="camel", kw_only=True):
    id: Literal["QE", "TD_QE"]


@dataclass(frozen=True, slots=True)
class Collateral:
    """As its bytes say: only `dcap.appraise` verifies it."""

    bundle: CollateralBundle
    tcb_id: Literal["SGX", "TDX"]
    qe_id: Literal["QE", "TD_QE"]
    fmspc: str
    """Lower-case hex, as `pce_id`."""
    pce_id: str
    tcb_issue_date: datetime
    qe_issue_date: datetime
    dates: CollateralDates
    """Over TCB info, QE identity, both CRLs and the signers' chains; the evaluation number is the lower of the two."""
    certificates: tuple[Certificate, ...]
    """Of the signers' chains."""


@lru_cache(maxsize=32)
def parse_collateral(data: bytes) -> Collateral:
    """The collateral in `data`. Raises `MalformedEvidenceError`."""
    # Cached: a fleet shares collateral, and CRLs are read in pure Python.
    if len(data) > MAX_COLLATERAL_SIZE:
        raise MalformedEvidenceError(f"collateral: {len(data)} bytes; at most {MAX_COLLATERAL_SIZE} are read")
    bundle = _decode(data, CollateralBundle, "collateral")
    tcb = _decode(bundle.tcb_info, _TcbInfo, "TCB info")
    qe = _decode(bundle.qe_identity, _QeIdentity, "QE identity")
    crls = [read_crl(decode_hex(text, "CRL")) for text in (bundle.root_ca_crl, bundle.pck_crl)]
    chains = (bundle.pck_crl_issuer_chain, bundle.tcb_info_issuer_chain, bundle.qe_identity_issuer_chain)
    certificates = [certificate for chain in chains for certificate in read_pem_chain(chain.encode())]
    return Collateral(
        bundle=bundle,
        tcb_id=tcb.id,
        qe_id=qe.id,
        fmspc=tcb.fmspc.lower(),
        pce_id=tcb.pce_id.lower(),
        tcb_issue_date=tcb.issue_date,
        qe_issue_date=qe.issue_date,
        dates=_dates((tcb, qe), crls, certificates),
        certificates=tuple(certificates),
    )


def read_pem_chain(data: bytes) -> tuple[Certificate, ...]:
    """Certificates in PEM, with the NUL that quoting libraries append. Raises `MalformedEvidenceError`."""
    text = data.rstrip(b"\x00").strip()
    if not text.startswith(_PEM_BEGIN):
        raise MalformedEvidenceError("a certificate chain is not in PEM")
    if (count := text.count(_PEM_BEGIN)) > MAX_CHAIN_LENGTH:
        raise MalformedEvidenceError(f"a chain of {count} certificates; at most {MAX_CHAIN_LENGTH} are read")
    return read_certificates(text)


def decode_hex(text: str, name: str) -> bytes:
    """Raises `MalformedEvidenceError`."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise MalformedEvidenceError(f"collateral: {name} is not hex") from None


def age_days(collateral: Collateral, at: datetime) -> int:
    """Whole days since the older of TCB info and QE identity was issued."""
    return (at - min(collateral.tcb_issue_date, collateral.qe_issue_date)).days


def signers_problem(certificates: Iterable[Certificate], root: Certificate) -> str | None:
    """Why one of the chains' certificates is not what Intel's `root` issued, as it did all of them and itself, or None.

    Appraisal takes the root that is pinned, and never looks at the copies: what was changed in them would go along.
    """
    for certificate in certificates:
        if problem := issued_by(certificate, root):
            return f"{certificate.subject_name!r} in its chains: {problem}"
    return None


def period_problem(dates: CollateralDates, at: datetime) -> str | None:
    """Why collateral with `dates` may not be used at `at`, or None."""
    if dates.not_before is not None and at < dates.not_before:
        return (
            f"it is from the future: issued {dates.not_before:%Y-%m-%dT%H:%M:%SZ}, judged at "
            f"{at:%Y-%m-%dT%H:%M:%SZ}; set this verifier's clock, it is wrong or was turned back"
        )
    if dates.not_after is not None and at > dates.not_after:
        return (
            f"it expired at {dates.not_after:%Y-%m-%dT%H:%M:%SZ}, judged at {at:%Y-%m-%dT%H:%M:%SZ}; "
            "fetch it anew from Intel PCS or a PCCS"
        )
    return None


def _dates(
    signed: Iterable[_Signed], crls: Iterable[RevocationList], certificates: Iterable[Certificate]
) -> CollateralDates:
    signed, crls, certificates = tuple(signed), tuple(crls), tuple(certificates)
    if any(date.tzinfo is None or not 2000 <= date.year <= 9000 for member in signed for date in member.period):
        raise MalformedEvidenceError("collateral: a date lacks its time zone or is out of range")
    if any(crl.next_update is None for crl in crls):
        raise MalformedEvidenceError("collateral: a CRL has no nextUpdate, so nobody can tell when it is stale")
    beginnings = [
        *(member.issue_date for member in signed),
        *(crl.this_update for crl in crls),
        *(certificate.not_before for certificate in certificates),
    ]
    ends = [
        *(member.next_update for member in signed),
        *(crl.next_update for crl in crls if crl.next_update is not None),
        *(certificate.not_after for certificate in certificates),
    ]
    return CollateralDates(
        not_before=max(beginnings).astimezone(UTC),
        not_after=min(ends).astimezone(UTC),
        evaluation_number=min(member.tcb_evaluation_data_number for member in signed),
    )


def _decode(text: bytes | str, kind: type[_Decoded], name: str) -> _Decoded:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise MalformedEvidenceError(f"{name}: {error}") from None
