"""Examines TPM 2.0 quotes: the key, its certificates, signature, PCR values, binding and event log."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from keep_attestation.certificates import Certificate, object_identifiers, read_certificate
from keep_attestation.errors import UnsupportedEvidenceError
from keep_attestation.event_log.event import HashAlgorithm
from keep_attestation.event_log.parser import parse_tcg_log
from keep_attestation.event_log.registers import replay
from keep_attestation.evidence import Binding, Evidence
from keep_attestation.revocation import revocation_covered
from keep_attestation.signatures import load_public_key
from keep_attestation.tpm.ak import attestation_key_problem, hierarchy_of_primary
from keep_attestation.tpm.bundle import TpmBundle, decode_bundle
from keep_attestation.tpm.quote import PcrBanks, check_qualifying_data, check_quote, parse_quote, quote_facts
from keep_attestation.tpm.structures import Public, TpmPublicKey, parse_public
from keep_attestation.tpm.trust import (
    PRODUCTION_ANCHORS,
    Trust,
    check_revocation,
    find_trust,
    google_facts,
    same_key,
)
from keep_attestation.verdict import Checks, CollateralDates, Examination

_EXTENDED_KEY_USAGE = "2.5.29.37"
_AIK_CERTIFICATE = "2.23.133.8.3"
_DER_SEQUENCE = b"\x30"
"""TPMT_PUBLIC begins with 0x00: the high byte of TPM_ALG_RSA or TPM_ALG_ECC."""
_PLAIN_KEY = (
    "the attestation key came as a plain public key, which does not say whether it signs only what its TPM wrote: give "
    "TPMT_PUBLIC, as `tpm2_readpublic -o` writes it"
)


def examine_tpm(
    evidence: Evidence,
    *,
    binding: Binding | None,
    at: datetime,
    anchors: Mapping[str, str] = PRODUCTION_ANCHORS,
) -> Examination:
    """What the bundle in `evidence.body` proves (TPM 2.0 Library, Part 1, 31; Part 3, 18.4):

    1. decode the bundle, the quote, its signature and the attestation key;
    2. the key is restricted to what its TPM itself wrote;
    3. where the key has a certificate, it is for this key, and its chain holds at `at`; `anchors` gives the names of
       pinned roots by their SHA-256;
    4. the same for the endorsement key's certificate. By itself it does not tie the attestation key to the endorsement
       key: only an activated credential (`keep_attestation.tpm.credential`) does, after which the name is pinned;
    5. CRLs that came with the evidence are honoured;
    6. the attestation key signed the quote, and the quote covers every PCR value given and no other;
    7. the qualifying data are those of `binding`;
    8. the event log, where there is one, replays to the quoted PCRs.

    A key without certificate, or under a root that is not pinned, passes here: whether its name or root is known is for
    the policy, which without an answer refuses. Raises `MalformedEvidenceError`.
    """
    bundle = decode_bundle(evidence.body)
    quote = parse_quote(bundle.quote, bundle.signature, bundle.pcrs)
    key, public = _read_key(bundle.ak)
    candidates = [read_certificate(der) for der in (*bundle.intermediates, *evidence.endorsements.certificates)]
    checks = Checks()
    facts: dict[str, Any] = quote_facts(quote) | {
        "ak_name": None if public is None else public.name.hex(),
        "ak_attributes": None if public is None else f"{int(public.attributes):#x}",
        "ak_hierarchy": None if public is None else hierarchy_of_primary(public, quote.attest.qualified_signer),
        "ak_root": None,
        "ek_root": None,
        "revocation_checked": False,
        "log_replayed": False,
    }
    problem = _PLAIN_KEY if public is None else attestation_key_problem(public)
    checks.expect("tpm.ak", problem is None, passed="the key signs only what its TPM wrote", failed=str(problem))
    ak_trust = _check_ak_certificate(checks, bundle, key, candidates, at, anchors)
    ek_trust = _check_ek_certificate(checks, bundle, candidates, at, anchors)
    trusts = [trust for trust in (ak_trust, ek_trust) if trust is not None]
    if check_revocation(checks, trusts, evidence.endorsements.crls, at) and not checks.failed:
        facts |= _trust_facts(ak_trust, ek_trust, evidence.endorsements.crls)
    # A plain key has no scheme of its own; it is refused above, but what it signed can still be told.
    scheme = quote.signature if public is None else public
    scheme_hash = quote.signature.hash if public is None else public.scheme_hash
    if check_quote(checks, quote, key, scheme.scheme, scheme_hash, "tpm"):
        check_qualifying_data(checks, quote.attest, binding, "tpm")
        facts["log_replayed"] = check_event_log(checks, evidence.log, quote.pcrs, "tpm")
    certificates = [certificate for trust in trusts for certificate in trust.chain]
    return Examination(
        checks=checks.made,
        facts=facts,
        identity=sha256(quote.message).hexdigest(),
        collateral=CollateralDates(
            not_before=max((certificate.not_before for certificate in certificates), default=None),
            not_after=min((certificate.not_after for certificate in certificates), default=None),
        ),
    )


def _read_key(data: bytes) -> tuple[TpmPublicKey, Public | None]:
    """The attestation key, and what its TPM says of it: nothing, where `data` is a plain SubjectPublicKeyInfo."""
    if data[:1] != _DER_SEQUENCE:
        public = parse_public(data)
        return public.key, public
    key = load_public_key(data)
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise UnsupportedEvidenceError("the attestation key is neither RSA nor on an elliptic curve")
    return key, None


def check_event_log(checks: Checks, log: bytes | None, pcrs: PcrBanks, kind: str) -> bool:
    """Whether the log replays to the quoted PCRs, in every quoted bank of which it has digests.

    Registers that the log does not name may hold anything: what is extended after the firmware is in no firmware log.
    Raises `MalformedEvidenceError`.
    """
    if log is None:
        checks.note(f"{kind}.log", "no event log was given")
        return False
    events = parse_tcg_log(log)
    explained = 0
    for bank, values in pcrs.items():
        if not _has_bank(events, bank):
            continue
        for register, replayed in replay(events, bank).items():
            if register not in values:
                continue
            if values[register] != replayed:
                checks.fail(
                    f"{kind}.log",
                    f"PCR {register} ({bank.name.lower()}) is {values[register].hex()} in the quote, the log replays "
                    f"to {replayed.hex()}: the log is of another boot or was changed",
                )
                return False
            explained += 1
    return checks.expect(
        f"{kind}.log",
        explained > 0,
        passed=f"{len(events)} events replay to {explained} quoted PCRs",
        failed="the log has no event for any quoted PCR and bank, so it explains nothing",
    )


def _has_bank(events: tuple[Any, ...], bank: HashAlgorithm) -> bool:
    # The header event has a SHA-1 digest in both formats.
    return any(bank in event.digests for event in events[1:])


def _check_ak_certificate(
    checks: Checks,
    bundle: TpmBundle,
    key: TpmPublicKey,
    candidates: list[Certificate],
    at: datetime,
    anchors: Mapping[str, str],
) -> Trust | None:
    if bundle.ak_certificate is None:
        checks.note("tpm.ak-certificate", "the attestation key has no certificate: the policy must know its name")
        return None
    certificate = read_certificate(bundle.ak_certificate)
    if not same_key(certificate, key):
        checks.fail("tpm.ak-certificate", "the certificate is for another key than the attestation key")
        return None
    trust = find_trust(checks, "tpm.ak-certificate", certificate, candidates, at, anchors)
    if trust is not None and trust.root not in anchors.values() and not _certifies_attestation_keys(certificate):
        # Whatever else such a root certifies, a web server's key say, anybody can make quotes with.
        checks.fail(
            "tpm.ak-certificate",
            "the certificate does not say that its key is a TPM's attestation key (extended key usage 2.23.133.8.3)",
        )
        return None
    return trust


def _certifies_attestation_keys(certificate: Certificate) -> bool:
    """TCG EK Credential Profile: tcg-kp-AIKCertificate. Google's say tcg-kp-EKCertificate, and are pinned."""
    usage = certificate.extensions.get(_EXTENDED_KEY_USAGE)
    return usage is not None and _AIK_CERTIFICATE in object_identifiers(usage)


def _check_ek_certificate(
    checks: Checks, bundle: TpmBundle, candidates: list[Certificate], at: datetime, anchors: Mapping[str, str]
) -> Trust | None:
    if bundle.ek_certificate is None:
        return None
    certificate = read_certificate(bundle.ek_certificate)
    if not any(candidate.subject == certificate.issuer for candidate in candidates):
        # Every TPM has one; without its maker's certificates it is an unknown one, not a wrong one.
        checks.note("tpm.ek-certificate", f"its issuer {certificate.issuer_name!r} is not among the certificates given")
        return None
    return find_trust(checks, "tpm.ek-certificate", certificate, candidates, at, anchors)


def _trust_facts(ak_trust: Trust | None, ek_trust: Trust | None, crls: tuple[bytes, ...]) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if ek_trust is not None:
        facts |= {"ek_root": ek_trust.root, "ek_certificate_sha256": ek_trust.chain[0].sha256}
    if ak_trust is not None:
        facts |= {"ak_root": ak_trust.root, "revocation_checked": revocation_covered(ak_trust.chain, crls)}
        facts |= google_facts(ak_trust.chain[0])
    return facts
