"""Judges evidence from files: no connection, no nonce of ours unless the user has one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from keep_attestation.endorsement_sources.interface import EndorsementSource
from keep_attestation.errors import MalformedEvidenceError
from keep_attestation.evidence import Binding, Evidence, claims_binding
from keep_attestation.evidence_files.reading import EvidenceFile
from keep_attestation.nitro.document import parse_document
from keep_attestation.policy import Policy
from keep_attestation.ratls.certificate import PresentedEvidence
from keep_attestation.ratls.collection import KeepCollection
from keep_attestation.ratls.peer import PeerVerdict, verify_foreign
from keep_attestation.ratls.policy import CertificatePolicy
from keep_attestation.ratls.presentation import Convention
from keep_attestation.rules import Facts
from keep_attestation.verdict import Check, Checks, Freshness, Outcome, Verdict
from keep_attestation.verification import verify
from keep_client import InvalidArgumentError
from keep_protocol.evidence import Claims, EvidenceKind

_BY_REPORT_DATA = frozenset({EvidenceKind.SNP, EvidenceKind.TDX, EvidenceKind.SGX, EvidenceKind.SIMULATED})
_REPORT_DATA_SIZE = 64


NO_POLICY = Check(
    "policy.missing", Outcome.FAIL, "no policy was given, and without reference values nothing is accepted"
)


class NoPolicy(Policy, frozen=True):
    """Stands for the policy that nobody gave: all is examined, nothing is accepted."""

    def alternatives(self, kind: EvidenceKind) -> tuple[Any, ...]:
        return (self,)

    def appraise(self, kind: EvidenceKind, facts: Facts) -> tuple[Check, ...]:
        return (NO_POLICY,)


class UnjudgedYet(NoPolicy, frozen=True):
    """The same for connections: they go on to phase two, whose verdict `without_policy` then refuses."""

    def appraise(self, kind: EvidenceKind, facts: Facts) -> tuple[Check, ...]:
        return ()


def without_policy(verdict: Verdict) -> Verdict:
    """What is left of a verdict by `UnjudgedYet`: a refusal."""
    return msgspec.structs.replace(verdict, checks=(*verdict.checks, NO_POLICY))


@dataclass(frozen=True, slots=True)
class Demands:
    """What the user wants the evidence to be bound to, and to say of itself."""

    nonce: bytes | None = None
    report_data: bytes | None = None
    spec_sha256: bytes | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, and what a keep claimed beside its evidence."""

    verdict: Verdict
    claims: Claims | None = None


def judge(
    file: EvidenceFile,
    policy: Policy,
    certificates: CertificatePolicy,
    demands: Demands,
    at: datetime,
    sources: tuple[EndorsementSource, ...] = (),
) -> Judgement:
    """The verdict over evidence in a file; `sources` are asked for what lies not beside it.

    Raises `InvalidArgumentError` for demands that its kind cannot meet.
    """
    match file.subject:
        case Evidence() as evidence:
            if demands.spec_sha256 is not None:
                raise InvalidArgumentError(f"bare {evidence.kind} evidence names no spec: leave --spec out")
            return Judgement(verify(evidence, policy, binding=_binding(evidence, demands), at=at, sources=sources))
        case KeepCollection() as collection:
            return _judge_collection(collection, policy, demands, at, sources)
        case PresentedEvidence() as presented:
            peer = verify_foreign(presented, policy, certificate_policy=certificates, at=at, sources=sources)
            return Judgement(_with_demands(peer, presented, demands), peer.claims)


def _with_demands(peer: PeerVerdict, presented: PresentedEvidence, demands: Demands) -> Verdict:
    """The verdict over a certificate, with the spec compared; an option that cannot apply is an error, not ignored."""
    if demands.report_data is not None:
        raise InvalidArgumentError("evidence in a certificate is bound to its key: leave --report-data out")
    if demands.nonce is not None and not any(item.convention is Convention.COCOS_LEGACY for item in presented.items):
        raise InvalidArgumentError("evidence in this certificate holds no nonce: leave --nonce out")
    if demands.spec_sha256 is None:
        return peer.verdict
    claimed = None if peer.claims is None else peer.claims.spec_sha256
    checks = Checks()
    checks.expect(
        "ratls.spec",
        claimed == demands.spec_sha256,
        passed="the spec is the one expected",
        failed=f"the spec is {'absent' if claimed is None else claimed.hex()}, not {demands.spec_sha256.hex()}",
    )
    others = (check for check in peer.verdict.checks if check.name != "ratls.spec")
    return msgspec.structs.replace(peer.verdict, checks=(*checks.made, *others))


def _binding(evidence: Evidence, demands: Demands) -> Binding | None:
    if demands.report_data is not None and evidence.kind not in _BY_REPORT_DATA:
        raise InvalidArgumentError(f"{evidence.kind} evidence has no report data: use --nonce")
    if demands.nonce is not None and evidence.kind in _BY_REPORT_DATA:
        raise InvalidArgumentError(f"{evidence.kind} evidence has no nonce of its own: use --report-data")
    if demands.report_data is not None:
        if len(demands.report_data) > _REPORT_DATA_SIZE:
            raise InvalidArgumentError(f"report data have at most {_REPORT_DATA_SIZE} bytes")
        # The zeros are compared too: a prefix would leave the rest to whoever asked for the report.
        return Binding(report_data=demands.report_data.ljust(_REPORT_DATA_SIZE, b"\0"), freshness=Freshness.UNBOUND)
    if demands.nonce is None:
        return None
    if evidence.kind is not EvidenceKind.NITRO:
        return Binding(qualifying_data=demands.nonce, freshness=Freshness.UNBOUND)
    try:
        document = parse_document(evidence.body)
    except MalformedEvidenceError:
        return Binding(nonce=demands.nonce, freshness=Freshness.UNBOUND)
    # What was not asked about is taken as it came.
    return Binding(
        user_data=document.user_data or b"",
        public_key=document.public_key or b"",
        nonce=demands.nonce,
        freshness=Freshness.UNBOUND,
    )


def _judge_collection(
    collection: KeepCollection,
    policy: Policy,
    demands: Demands,
    at: datetime,
    sources: tuple[EndorsementSource, ...],
) -> Judgement:
    claims = collection.claims
    if demands.report_data is not None:
        raise InvalidArgumentError("a keep's collection is bound to its claims: use --nonce")
    checks = Checks()
    if demands.nonce is None:
        checks.note("ratls.nonce", "no nonce was demanded (--nonce): the collection may be of any time")
    else:
        checks.expect(
            "ratls.nonce",
            claims.nonce == demands.nonce,
            passed="the claims hold this nonce",
            failed=f"the claims hold {'no nonce' if claims.nonce is None else f'the nonce {claims.nonce.hex()}'}, "
            f"not {demands.nonce.hex()}",
        )
    if claims.exporter is not None:
        reason = "the claims are of one TLS connection; that it was yours can be seen on that connection alone"
        checks.note("ratls.exporter", reason)
    checks.expect(
        "ratls.kind",
        claims.kind is collection.evidence.kind,
        passed=f"claims and evidence are both of kind {claims.kind}",
        failed=f"the claims are of kind {claims.kind}, the evidence is of kind {collection.evidence.kind}",
    )
    if demands.spec_sha256 is None:
        checks.note("ratls.spec", f"not compared (--spec): the claims say {claims.spec_sha256.hex()}")
    else:
        checks.expect(
            "ratls.spec",
            claims.spec_sha256 == demands.spec_sha256,
            passed="the spec is the one expected",
            failed=f"the keep was started from spec {claims.spec_sha256.hex()}, not {demands.spec_sha256.hex()}",
        )
    binding = claims_binding(
        collection.encoded_claims, _key_of(collection), nonce=claims.nonce, freshness=Freshness.KEY
    )
    verdict = verify(collection.evidence, policy, binding=binding, at=at, sources=sources)
    return Judgement(msgspec.structs.replace(verdict, checks=(*checks.made, *verdict.checks)), claims)


def _key_of(collection: KeepCollection) -> bytes:
    """The keep's key as a Nitro document has it, if it is the one of the claims; no other kind carries it."""
    if collection.evidence.kind is EvidenceKind.NITRO:
        try:
            key = parse_document(collection.evidence.body).public_key or b""
        except MalformedEvidenceError:
            return b""
        if hashlib.sha256(key).digest() == collection.claims.spki_sha256:
            return key
    return b""


def moment(text: str) -> datetime:
    """A time from the command line: RFC 3339, a date, or seconds since the epoch. Raises `ValueError`."""
    if text == "now":
        return datetime.now(UTC)
    if text.isascii() and text.isdigit():
        return datetime.fromtimestamp(int(text), UTC)
    parsed = datetime.fromisoformat(text)
    return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
