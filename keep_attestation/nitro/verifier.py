"""Examines AWS Nitro attestation documents: chain to AWS's root, signature, time and binding."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from keep_attestation.certificates import Certificate, chain_problem, read_certificate
from keep_attestation.evidence import Binding, Evidence
from keep_attestation.nitro.document import NitroDocument, parse_document
from keep_attestation.revocation import revocation_covered, revocation_problem
from keep_attestation.verdict import Checks, CollateralDates, Examination

PRODUCTION_ANCHORS = frozenset({"641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"})
"""SHA-256 of root G1's certificate, as the AWS Nitro Enclaves user guide ("Verifying the root of trust") prints it."""

CLOCK_SKEW = timedelta(minutes=5)
"""By how much a document may be from the future: AWS's clock and the verifier's differ."""

_SPKI_P384_UNCOMPRESSED = bytes.fromhex("3076301006072a8648ce3d020106052b8104002203620004")
"""SubjectPublicKeyInfo of an uncompressed point on P-384 up to its coordinates (RFC 5480, 2); 96 bytes follow."""


def examine_nitro(
    evidence: Evidence,
    *,
    binding: Binding | None,
    at: datetime,
    anchors: Collection[str] = PRODUCTION_ANCHORS,
) -> Examination:
    """What the document in `evidence.body` proves, after the steps of AWS's attestation_process.md, section 3.2:

    1. decode the COSE_Sign1 and the payload, and check every member's type and size;
    2. the chain from the module's certificate through cabundle to a root whose SHA-256 is in `anchors` holds, both when
       the document was made and at `at`. The module's certificate lives three hours: give an earlier `at` to judge a
       document of the past; CRLs that came with it are honoured;
    3. the document was not made after `at`;
    4. the signature is ES384 by the module's certificate;
    5. user_data, public_key and nonce are those of `binding`.

    Raises `MalformedEvidenceError`.
    """
    document = parse_document(evidence.body)
    leaf = read_certificate(document.certificate)
    chain = (leaf, *(read_certificate(der) for der in reversed(document.cabundle)))
    crls = evidence.endorsements.crls
    checks = Checks()
    trusted = (
        _check_chain(checks, document, chain, at, anchors)
        and _check_revocation(checks, chain, crls, at)
        and _check_time(checks, document, at)
        and _check_signature(checks, document, leaf)
    )
    if trusted:
        _check_binding(checks, document, binding)
    return Examination(
        checks=checks.made,
        facts=_facts(document, at) | {"revocation_checked": trusted and revocation_covered(chain, crls)},
        identity=sha256(document.signed).hexdigest(),
        collateral=CollateralDates(
            not_before=max(certificate.not_before for certificate in chain),
            not_after=min(certificate.not_after for certificate in chain),
        ),
    )


def _check_chain(
    checks: Checks, document: NitroDocument, chain: tuple[Certificate, ...], at: datetime, anchors: Collection[str]
) -> bool:
    root = chain[-1]
    if root.sha256 not in anchors:
        checks.fail(
            "nitro.chain", f"the root {root.subject_name!r} has SHA-256 {root.sha256}, which is not AWS's root G1"
        )
        return False
    for moment, name in ((document.timestamp, "when the document was made"), (at, "at the time of verification")):
        if problem := chain_problem(chain, moment):
            checks.fail(
                "nitro.chain", f"{problem} ({name}); the module's certificate lives 3 hours: ask for new evidence"
            )
            return False
    checks.ok("nitro.chain", f"{len(chain)} certificates lead to the pinned root {root.subject_name!r}")
    return True


def _check_revocation(checks: Checks, chain: tuple[Certificate, ...], crls: tuple[bytes, ...], at: datetime) -> bool:
    if not crls:
        checks.note("nitro.revocation", "no CRL was given")
        return True
    problem = revocation_problem(chain, crls, at)
    return checks.expect("nitro.revocation", problem is None, passed="no CRL forbids the chain", failed=str(problem))


def _check_time(checks: Checks, document: NitroDocument, at: datetime) -> bool:
    return checks.expect(
        "nitro.time",
        document.timestamp <= at + CLOCK_SKEW,
        passed=f"made at {document.timestamp:%Y-%m-%dT%H:%M:%SZ}",
        failed=f"made at {document.timestamp:%Y-%m-%dT%H:%M:%SZ}, after the time of verification, "
        f"{at:%Y-%m-%dT%H:%M:%SZ}: one of the clocks is wrong",
    )


def _check_signature(checks: Checks, document: NitroDocument, leaf: Certificate) -> bool:
    if not leaf.spki.startswith(_SPKI_P384_UNCOMPRESSED) or len(leaf.spki) != len(_SPKI_P384_UNCOMPRESSED) + 96:
        checks.fail("nitro.signature", "the module's key is no uncompressed point on P-384, which ES384 demands")
        return False
    return checks.expect(
        "nitro.signature",
        _signature_holds(document, leaf),
        passed="ES384 by the module's certificate",
        failed="the COSE signature is not by the module's certificate: the document was changed or mixed from two",
    )


def _signature_holds(document: NitroDocument, leaf: Certificate) -> bool:
    key = leaf.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return False
    r, s = (int.from_bytes(half, "big") for half in (document.signature[:48], document.signature[48:]))
    try:
        key.verify(utils.encode_dss_signature(r, s), document.signed, ec.ECDSA(hashes.SHA384()))
    except (InvalidSignature, ValueError):
        return False
    return True


def _check_binding(checks: Checks, document: NitroDocument, binding: Binding | None) -> None:
    if binding is None:
        checks.note("nitro.binding", "nothing was demanded: anybody may hold a copy of this document")
        return
    if binding.user_data is None or binding.public_key is None:
        checks.fail("nitro.binding", "the verifier demanded no user_data and public_key, which bind a Nitro document")
        return
    # Absent and empty mean the same: the NSM writes null for an empty member or leaves it empty, by its version.
    members = (
        ("user_data", binding.user_data, document.user_data or b""),
        ("public_key", binding.public_key, document.public_key or b""),
        ("nonce", binding.nonce or b"", document.nonce or b""),
    )
    for name, expected, came in members:
        if came != expected:
            checks.fail("nitro.binding", f"{name} is {_shown(came)}, expected {_shown(expected)}")
            return
    checks.ok("nitro.binding", "user_data, public_key and nonce are the expected ones")


def _shown(value: bytes) -> str:
    text = value.hex()
    if not text:
        return "empty"
    return text if len(text) <= 64 else f"{text[:64]}… ({len(value)} bytes)"


def _facts(document: NitroDocument, at: datetime) -> dict[str, Any]:
    return {
        "module_id": document.module_id,
        "instance_id": document.instance_id,
        "digest": "SHA384",
        "timestamp_ms": document.timestamp_ms,
        "age_seconds": max(0, int((at - document.timestamp).total_seconds())),
        "pcrs": {str(index): value.hex() for index, value in document.pcrs.items()},
        "debug_mode": document.is_debug,
        "user_data": _hex(document.user_data),
        "public_key": _hex(document.public_key),
        "nonce": _hex(document.nonce),
    }


def _hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()
