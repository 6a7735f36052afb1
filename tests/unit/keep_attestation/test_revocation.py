"""CRLs that came with evidence: what they revoke is refused, and so is everything when they prove nothing."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from asn1crypto import crl
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from keep_attestation.certificates import read_crl, revoked_by
from keep_attestation.errors import MalformedCertificateError
from keep_attestation.revocation import revocation_covered, revocation_problem
from tests.unit.keep_attestation.authorities import (
    AFTER,
    BEFORE,
    CHAIN,
    INTERMEDIATE,
    LEAF,
    NOW,
    ROOT,
    issue,
    make_crl,
)

GOOD_CRL = make_crl(ROOT, 7)


def test_a_current_crl_of_the_issuer_forbids_what_it_revokes_and_nothing_else() -> None:
    revocations = read_crl(make_crl(ROOT, 7, 9))
    root = ROOT.certificate
    assert revoked_by(revocations, root, (8,), NOW) is None
    assert revoked_by(revocations, root, (8, 9, 7), NOW) == "'root' has revoked serial number 0x7"
    assert revoked_by(read_crl(make_crl(ROOT)), root, (7,), NOW) is None


@pytest.mark.parametrize(
    ("at", "reason"),
    [
        (BEFORE - timedelta(seconds=1), "the CRL is current from 2026-05-02 to 2026-07-01, not at 2026-05-02"),
        (AFTER + timedelta(seconds=1), "the CRL is current from 2026-05-02 to 2026-07-01, not at 2026-07-01"),
    ],
)
def test_a_crl_that_is_not_current_forbids_everything(at: datetime, reason: str) -> None:
    assert revoked_by(read_crl(make_crl(ROOT)), ROOT.certificate, (), at) == reason


def test_a_crl_by_somebody_else_forbids_everything() -> None:
    revocations = read_crl(make_crl(INTERMEDIATE))
    assert revoked_by(revocations, ROOT.certificate, (), NOW) == "the CRL is not issued by 'root'"
    forged = read_crl(make_crl(ROOT, signer=LEAF.key))
    assert revoked_by(forged, ROOT.certificate, (), NOW) == "the CRL's signature is not by 'root'"
    powerless = issue("powerless", signs="certificates")
    revocations = read_crl(make_crl(powerless))
    assert revoked_by(revocations, powerless.certificate, (), NOW) == "'powerless' may not sign CRLs"


def test_a_crl_without_next_update_forbids_everything() -> None:
    parsed = crl.CertificateList.load(make_crl(ROOT))
    del parsed["tbs_cert_list"]["next_update"]
    parsed["signature"] = ROOT.key.sign(parsed["tbs_cert_list"].dump(force=True), ec.ECDSA(hashes.SHA256()))
    reason = revoked_by(read_crl(parsed.dump(force=True)), ROOT.certificate, (), NOW)
    assert reason == "the CRL has no nextUpdate, so nobody can tell when it is stale"


def test_crls_that_came_are_honoured_for_each_link_of_the_chain() -> None:
    leaf_serial, intermediate_serial = LEAF.certificate.serial, INTERMEDIATE.certificate.serial
    good = (make_crl(ROOT), make_crl(INTERMEDIATE))
    assert revocation_problem(CHAIN, (), NOW) is None
    assert revocation_problem(CHAIN, good, NOW) is None
    assert "'root' has revoked" in str(revocation_problem(CHAIN, [make_crl(ROOT, intermediate_serial)], NOW))
    assert "'intermediate' has revoked" in str(revocation_problem(CHAIN, [make_crl(INTERMEDIATE, leaf_serial)], NOW))
    # The root does not speak for what the intermediate issued.
    assert revocation_problem(CHAIN, [make_crl(ROOT, leaf_serial)], NOW) is None
    assert "no certificate of the chain issued" in str(revocation_problem(CHAIN, [make_crl(issue("else"))], NOW))


def test_revocation_is_covered_only_when_every_issuer_has_a_crl() -> None:
    assert revocation_covered(CHAIN, [make_crl(ROOT), make_crl(INTERMEDIATE)])
    assert not revocation_covered(CHAIN, [make_crl(ROOT)])
    assert not revocation_covered(CHAIN, [])
    assert not revocation_covered(CHAIN[:1], [make_crl(ROOT)])


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.integers(0, 1000), st.binary(min_size=1, max_size=4))
def test_a_changed_crl_raises_nothing_but_our_errors_and_is_believed_by_nobody(place: int, replacement: bytes) -> None:
    der = GOOD_CRL
    place %= len(der)
    changed = der[:place] + replacement + der[place + len(replacement) :]
    try:
        revocations = read_crl(changed)
    except MalformedCertificateError:
        return
    believed = revoked_by(revocations, ROOT.certificate, (), NOW) is None
    assert not believed or revocations.signed == read_crl(der).signed
