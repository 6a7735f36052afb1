"""What lies beside evidence or is given with it: certificates, CRLs and collateral, of which what fits is taken."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec

from keep_attestation.certificates import Certificate, read_certificates, read_crl
from keep_attestation.endorsement_sources.intel_pcs import platform_of
from keep_attestation.errors import EndorsementsError, MalformedEvidenceError
from keep_attestation.evidence import Endorsements
from keep_attestation.evidence_files.collateral_forms import assemble
from keep_attestation.evidence_files.content import Content, Part
from keep_attestation.snp.anchors import PRODUCTION_ANCHORS
from keep_attestation.snp.certificate_table import endorsements_of_table, endorsements_of_thim
from keep_attestation.snp.products import decode_tcb
from keep_attestation.snp.report import Report, parse_report
from keep_attestation.snp.vek import endorsement_key_of, read_vek
from keep_protocol.evidence import EvidenceKind

ENDORSING = frozenset(
    {
        Content.CERTIFICATES,
        Content.CRL,
        Content.CERTIFICATE_TABLE,
        Content.THIM_REPLY,
        Content.COLLATERAL,
        Content.PCS_REPLY,
    }
)
_PINNED_BY_AMD = frozenset(each.der for hierarchy in PRODUCTION_ANCHORS for each in hierarchy.certificates)


@dataclass(frozen=True, slots=True)
class Companion:
    """One file beside the evidence."""

    path: Path
    part: Part
    given: bool
    """Named by the user, not found beside the evidence: it is used even if it does not fit, and may so refuse."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What of the companions goes to the verifier."""

    endorsements: Endorsements
    used: tuple[Path, ...]


class _Collateral(msgspec.Struct, frozen=True):
    tcb_info: str


class _TcbInfo(msgspec.Struct, frozen=True):
    fmspc: str
    issue_date: Annotated[datetime, msgspec.Meta(tz=True)] = msgspec.field(name="issueDate")
    id: str = "SGX"


def select(kind: EvidenceKind, body: bytes, companions: Iterable[Companion], at: datetime) -> Selection:
    """The endorsements for evidence of `kind`, judged at `at`. Raises `EndorsementsError` for a file given in vain."""
    companions = [each for each in companions if each.part.content in ENDORSING]
    if kind in (EvidenceKind.TDX, EvidenceKind.SGX):
        return _collateral(kind, body, companions, at)
    certificates, crls = _certificates(companions), _crls(companions)
    if kind is EvidenceKind.SNP:
        try:
            report = parse_report(body)
        except MalformedEvidenceError:
            # The verdict says what is wrong with it.
            return Selection(Endorsements(), ())
        certificates = _amd_certificates(report, certificates)
        roots = {
            hierarchy.ark.subject
            for certificate, _ in certificates
            if (key := endorsement_key_of(certificate)) is not None
            for hierarchy in PRODUCTION_ANCHORS
            if hierarchy.issuer_of(key).subject == certificate.issuer
        }
        crls = [(der, companion) for der, companion in crls if companion.given or read_crl(der).issuer in roots]
    return Selection(
        Endorsements(
            certificates=tuple(dict.fromkeys(certificate.der for certificate, _ in certificates)),
            crls=tuple(dict.fromkeys(der for der, _ in crls)),
        ),
        tuple(dict.fromkeys(companion.path for _, companion in (*certificates, *crls))),
    )


def certificates_of(part: Part) -> tuple[Certificate, ...]:
    """Raises `MalformedEvidenceError`."""
    match part.content:
        case Content.CERTIFICATES:
            return read_certificates(part.data)
        case Content.CERTIFICATE_TABLE:
            ders = endorsements_of_table(part.data).certificates
        case Content.THIM_REPLY:
            ders = endorsements_of_thim(part.data).certificates
        case _:
            return ()
    return tuple(certificate for der in ders for certificate in read_certificates(der))


def _certificates(companions: Iterable[Companion]) -> list[tuple[Certificate, Companion]]:
    found: list[tuple[Certificate, Companion]] = []
    for companion in companions:
        try:
            found += ((certificate, companion) for certificate in certificates_of(companion.part))
        except MalformedEvidenceError as error:
            if companion.given:
                raise EndorsementsError(f"{companion.path}: {error}") from None
    return found


def _crls(companions: Iterable[Companion]) -> list[tuple[bytes, Companion]]:
    return [(companion.part.data, companion) for companion in companions if companion.part.content is Content.CRL]


def _amd_certificates(
    report: Report, certificates: list[tuple[Certificate, Companion]]
) -> list[tuple[Certificate, Companion]]:
    keys = [pair for pair in certificates if endorsement_key_of(pair[0]) is not None]
    # Where none fits, all go along: the verdict then says in what they differ.
    fitting = [pair for pair in keys if pair[1].given or _fits(pair[0], report)] or keys
    authorities = [
        pair
        for pair in certificates
        if endorsement_key_of(pair[0]) is None and (pair[1].given or pair[0].der in _PINNED_BY_AMD)
    ]
    return [*fitting, *authorities]


def _fits(certificate: Certificate, report: Report) -> bool:
    try:
        vek = read_vek(certificate)
        same_tcb = decode_tcb(report.reported_tcb, vek.product) == vek.tcb
    except MalformedEvidenceError:
        return False
    return same_tcb and (vek.hardware_id is None or report.chip_id == vek.hardware_id.ljust(64, b"\x00"))


def _collateral(kind: EvidenceKind, body: bytes, companions: Iterable[Companion], at: datetime) -> Selection:
    """What is given, or the newest for this platform that was issued by `at`."""
    found = [companion for companion in companions if companion.part.content is Content.COLLATERAL]
    given = [companion for companion in found if companion.given]
    if len(given) == 1:
        return _chosen(given[0])
    try:
        fmspc, _ = platform_of(body)
    except (EndorsementsError, MalformedEvidenceError):
        return Selection(Endorsements(), ())
    dated = [(tcb_info.issue_date, each) for each in found if (tcb_info := _fitting(each, kind, fmspc)) is not None]
    if not dated:
        return _assembled(body, companions)
    issued = [pair for pair in dated if pair[0] <= at] or dated
    return _chosen(max(issued, key=lambda pair: pair[0])[1])


def _assembled(body: bytes, companions: Iterable[Companion]) -> Selection:
    """Collateral of which the parts lie in several files, as Intel's service gives them."""
    companions = list(companions)
    replies = [each.part.data for each in companions if each.part.content is Content.PCS_REPLY]
    certificates = [certificate for certificate, _ in _certificates(companions)]
    collateral = assemble(body, replies, [der for der, _ in _crls(companions)], certificates) if replies else None
    if collateral is None:
        return Selection(Endorsements(), ())
    wanted = (Content.PCS_REPLY, Content.CRL, Content.CERTIFICATES)
    used = tuple(each.path for each in companions if each.part.content in wanted)
    return Selection(Endorsements(collateral=collateral), used)


def _fitting(companion: Companion, kind: EvidenceKind, fmspc: str) -> _TcbInfo | None:
    try:
        tcb_info = msgspec.json.decode(
            msgspec.json.decode(companion.part.data, type=_Collateral).tcb_info, type=_TcbInfo
        )
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return tcb_info if tcb_info.fmspc.upper() == fmspc and tcb_info.id.lower() == kind.value else None


def _chosen(companion: Companion) -> Selection:
    return Selection(Endorsements(collateral=companion.part.data), (companion.path,))
