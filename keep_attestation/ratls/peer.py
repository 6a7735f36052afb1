"""Judges a TLS peer: in the handshake by its certificate (phase one), then by fresh evidence (phase two).

Phase one proves that evidence and key belong together, not when it was made. Secrets wait for phase two, which ties
evidence to a nonce and to the TLS exporter of this very connection: a relay cannot answer for it (CVE-2026-33697).
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from hmac import compare_digest

import msgspec

from keep_attestation.certificates import read_certificate
from keep_attestation.endorsement_sources.interface import EndorsementSource
from keep_attestation.errors import UnsupportedEvidenceError
from keep_attestation.evidence import Binding, Evidence, claims_binding
from keep_attestation.policy import Policy
from keep_attestation.ratls.certificate import PresentedEvidence, check_bearer, read_ratls
from keep_attestation.ratls.collection import decode_collection
from keep_attestation.ratls.policy import CertificatePolicy
from keep_attestation.ratls.presentation import OWN_CONVENTION
from keep_attestation.ratls.verdict_cache import VerdictCache
from keep_attestation.verdict import Check, Checks, Freshness, Outcome, Verdict
from keep_attestation.verification import Examiner, verify
from keep_protocol.evidence import EXPORTER_SIZE, NONCE_SIZE, Claims, EvidenceKind

_LEAST_DISTINCT_BYTES = 8
"""32 random bytes have fewer different values than this once in 10^40 draws; a constant nonce always has."""


class ExpectedKeep(msgspec.Struct, frozen=True, kw_only=True):
    """Which keep the client means to speak to. None: not compared, which the verdict says."""

    keep: str | None
    """The keep's id."""
    spec_sha256: bytes | None
    """Of the canonical spec that the keep was asked for: a host that swapped principals or limits is caught by it."""
    workload_sha256: bytes | None = None
    """Of the workload that must be loaded."""
    configuration_sha256: bytes | None = None
    """Of the configuration that the workload must have."""
    backend: str | None = None


_ANY_KEEP = ExpectedKeep(keep=None, spec_sha256=None)


class PeerVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """The conclusion about a peer: its certificate, what it claims, and its evidence."""

    verdict: Verdict
    """With all checks, those of certificate and claims first."""
    spki_sha256: str
    """The key that the evidence was found to be bound to, in hex."""
    claims: Claims | None = None
    """What the keep says of itself; None for others' certificates. Trustworthy only if accepted."""

    @property
    def accepted(self) -> bool:
        return self.verdict.accepted

    def require(self) -> PeerVerdict:
        """This verdict. Raises `EvidenceRefusedError` if it is not positive."""
        self.verdict.require()
        return self


def new_nonce() -> bytes:
    """32 random bytes for one challenge. To use them twice is to accept a replay (CVE-2026-6420)."""
    return secrets.token_bytes(NONCE_SIZE)


def verify_peer(
    certificate_der: bytes,
    policy: Policy,
    *,
    expected: ExpectedKeep,
    at: datetime | None = None,
    sources: Iterable[EndorsementSource] = (),
    certificate_policy: CertificatePolicy | None = None,
    cache: VerdictCache | None = None,
    examine: Examiner | None = None,
) -> PeerVerdict:
    """Phase one: the keep's certificate, in our own convention, as it came in the handshake.

    The TLS stack must have checked CertificateVerify: here the certificate is only bytes that anybody may have copied.
    The verdict is by `Freshness.KEY` at best. `certificate_policy` stands for the policy's own table. Raises
    `MalformedEvidenceError` if the certificate cannot be read.
    """
    at = datetime.now(UTC) if at is None else at
    certificate_policy = policy.certificate if certificate_policy is None else certificate_policy
    presented = read_ratls(certificate_der, accept=OWN_CONVENTION)
    item = presented.items[0]
    claims = item.claims
    if claims is None:
        raise UnsupportedEvidenceError("the certificate holds evidence without claims")
    checks = Checks()
    checks.extend(check_bearer(presented, certificate_policy, at))
    _check_phase_one(checks, claims, certificate_policy, at)
    _check_claims(checks, claims, item.evidence.kind, presented.spki, expected)
    verdict = _verify_cached(item.evidence, policy, item.binding, at, sources, cache, examine)
    return _peer_verdict(checks, verdict, presented.spki, claims)


def verify_fresh(
    collection: bytes,
    certificate_der: bytes,
    nonce: bytes,
    exporter: bytes,
    policy: Policy,
    *,
    expected: ExpectedKeep,
    at: datetime | None = None,
    sources: Iterable[EndorsementSource] = (),
    certificate_policy: CertificatePolicy | None = None,
    examine: Examiner | None = None,
) -> PeerVerdict:
    """Phase two: the keep's answer to `nonce` on the connection whose peer showed `certificate_der`.

    `exporter` is what the client's own end of that connection exports for the nonce (`EXPORTER_LABEL`, 32 bytes).
    A positive verdict is of `Freshness.CONNECTION`. Raises `MalformedEvidenceError` if the answer cannot be read, and
    `ValueError` for a nonce or exporter that cannot be right: the caller's fault, not the peer's.
    """
    _demand_random(nonce, NONCE_SIZE, "nonce")
    _demand_random(exporter, EXPORTER_SIZE, "exporter")
    at = datetime.now(UTC) if at is None else at
    certificate_policy = policy.certificate if certificate_policy is None else certificate_policy
    spki = read_certificate(certificate_der).spki
    answer = decode_collection(collection)
    claims = answer.claims
    checks = Checks()
    checks.expect(
        "ratls.nonce",
        claims.nonce is not None and compare_digest(claims.nonce, nonce),
        passed="the claims hold the nonce of this challenge",
        failed="the claims hold no nonce: they may be as old as the key"
        if claims.nonce is None
        else "the claims hold another nonce: they answer another challenge",
    )
    checks.expect(
        "ratls.exporter",
        claims.exporter is not None and compare_digest(claims.exporter, exporter),
        passed="the claims hold the TLS exporter of this connection",
        failed="the claims do not hold the TLS exporter of this connection: somebody relays evidence of a keep that is "
        "connected to them, not to us",
    )
    issued = datetime.fromtimestamp(claims.issued_at, UTC) if _is_moment(claims.issued_at) else None
    checks.expect(
        "ratls.issued",
        issued is not None and abs(issued - at) <= certificate_policy.clock_skew,
        passed="the keep's clock agrees with ours",
        failed=f"the claims are of {claims.issued_at} s since the epoch, not of now: the clock of the keep or of this "
        f"machine is wrong by more than {certificate_policy.clock_skew_seconds} s",
    )
    _check_claims(checks, claims, answer.evidence.kind, spki, expected)
    binding = claims_binding(answer.encoded_claims, spki, nonce=nonce, freshness=Freshness.CONNECTION)
    verdict = verify(answer.evidence, policy, binding=binding, at=at, sources=sources, examine=examine)
    return _peer_verdict(checks, verdict, spki, claims)


def verify_foreign(
    presented: PresentedEvidence,
    policy: Policy,
    *,
    certificate_policy: CertificatePolicy | None = None,
    at: datetime | None = None,
    sources: Iterable[EndorsementSource] = (),
    examine: Examiner | None = None,
) -> PeerVerdict:
    """The verdict over evidence by any convention, from `read_ratls` or `read_ratls_request`.

    With several pieces of evidence every one must be accepted, each bound to the one key; facts and identity are the
    first one's. Nothing says which keep it is: `Freshness.KEY`, for peers whose key is all that one wants to know.
    """
    at = datetime.now(UTC) if at is None else at
    certificate_policy = policy.certificate if certificate_policy is None else certificate_policy
    checks = Checks()
    checks.extend(check_bearer(presented, certificate_policy, at))
    unwanted = {item.convention for item in presented.items} - certificate_policy.accept
    if unwanted:
        checks.fail("ratls.convention", f"evidence by {', '.join(sorted(unwanted))} is not accepted")
    sources = tuple(sources)
    verdicts = []
    for item in presented.items:
        checks.extend(item.checks)
        if item.claims is not None:
            _check_phase_one(checks, item.claims, certificate_policy, at)
            _check_claims(checks, item.claims, item.evidence.kind, presented.spki, _ANY_KEEP)
        verdict = verify(item.evidence, policy, binding=item.binding, at=at, sources=sources, examine=examine)
        verdicts.append(_with_a_reason(verdict))
    all_checks = tuple(check for verdict in verdicts for check in verdict.checks)
    merged = msgspec.structs.replace(verdicts[0], checks=all_checks)
    return _peer_verdict(checks, merged, presented.spki, presented.items[0].claims)


def _verify_cached(
    evidence: Evidence,
    policy: Policy,
    binding: Binding,
    at: datetime,
    sources: Iterable[EndorsementSource],
    cache: VerdictCache | None,
    examine: Examiner | None,
) -> Verdict:
    # Another examiner may have other trust anchors; the key does not cover it.
    if cache is None or examine is not None:
        return verify(evidence, policy, binding=binding, at=at, sources=sources, examine=examine)
    remembered = cache.find(evidence, policy, binding, at)
    if remembered is not None:
        return remembered
    verdict = verify(evidence, policy, binding=binding, at=at, sources=sources, examine=examine)
    cache.store(evidence, policy, binding, verdict)
    return verdict


def _with_a_reason(verdict: Verdict) -> Verdict:
    # Evidence on which nothing was checked must not pass on the strength of the certificate around it.
    if verdict.accepted or verdict.failures:
        return verdict
    nothing = Check("ratls.evidence", Outcome.FAIL, verdict.summary)
    return msgspec.structs.replace(verdict, checks=(*verdict.checks, nothing))


def _peer_verdict(checks: Checks, verdict: Verdict, spki: bytes, claims: Claims | None) -> PeerVerdict:
    return PeerVerdict(
        verdict=msgspec.structs.replace(verdict, checks=(*checks.made, *_with_a_reason(verdict).checks)),
        spki_sha256=hashlib.sha256(spki).hexdigest(),
        claims=claims,
    )


def _check_claims(checks: Checks, claims: Claims, kind: EvidenceKind, spki: bytes, expected: ExpectedKeep) -> None:
    checks.expect(
        "ratls.key",
        compare_digest(claims.spki_sha256, hashlib.sha256(spki).digest()),
        passed="the claims are of the key of this connection",
        failed="the claims are of another key: the evidence was taken from another keep",
    )
    checks.expect(
        "ratls.kind",
        claims.kind is kind,
        passed=f"claims and evidence are both of kind {kind}",
        failed=f"the claims are of kind {claims.kind}, the evidence is of kind {kind}",
    )
    _compare(checks, "keep", claims.keep, expected.keep)
    _compare(checks, "backend", claims.backend, expected.backend)
    _compare(checks, "spec", claims.spec_sha256, expected.spec_sha256)
    _compare(checks, "workload", claims.workload_sha256, expected.workload_sha256)
    if claims.configuration_sha256 is not None or expected.configuration_sha256 is not None:
        _compare(checks, "configuration", claims.configuration_sha256, expected.configuration_sha256)


def _compare(checks: Checks, what: str, claimed: str | bytes | None, expected: str | bytes | None) -> None:
    if expected is None:
        checks.note(f"ratls.{what}", f"not compared: no {what} is expected; the claims say {_show(claimed)}")
        return
    checks.expect(
        f"ratls.{what}",
        claimed == expected,
        passed=f"the {what} is the one expected",
        failed=f"the {what} is {_show(claimed)}, not {_show(expected)}",
    )


def _show(value: str | bytes | None) -> str:
    if value is None:
        return "absent"
    return value.hex() if isinstance(value, bytes) else repr(value)


def _check_phase_one(checks: Checks, claims: Claims, policy: CertificatePolicy, at: datetime) -> None:
    checks.expect(
        "ratls.phase",
        claims.nonce is None and claims.exporter is None,
        passed="the claims are of no particular connection, as in every certificate",
        failed="the claims in the certificate hold a nonce or an exporter: they were made for another connection",
    )
    if not _is_moment(claims.issued_at):
        checks.fail("ratls.issued", f"the claims are of {claims.issued_at} s since the epoch, which is no date")
        return
    issued = datetime.fromtimestamp(claims.issued_at, UTC)
    checks.expect(
        "ratls.issued",
        issued - policy.clock_skew <= at <= issued + policy.max_evidence_age + policy.clock_skew,
        passed=f"the claims are of {issued:%Y-%m-%dT%H:%M:%SZ}",
        failed=f"the claims are of {issued:%Y-%m-%dT%H:%M:%SZ}; at {at:%Y-%m-%dT%H:%M:%SZ} they are in the future or "
        f"older than {policy.max_evidence_age_hours} hours",
    )


def _is_moment(seconds: int) -> bool:
    # Beyond the year 9000 datetime overflows, and additions to it do so earlier.
    return seconds < 221_845_392_000


def _demand_random(value: bytes, size: int, name: str) -> None:
    if len(value) != size:
        raise ValueError(f"a {name} has {size} bytes, not {len(value)}")
    if len(set(value)) < _LEAST_DISTINCT_BYTES:
        raise ValueError(f"this {name} is a constant, not random: draw it with new_nonce() for every challenge")
