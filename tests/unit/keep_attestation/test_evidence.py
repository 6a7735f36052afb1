"""Endorsements are put together, and our own claims become what each kind of hardware carries."""

from __future__ import annotations

from keep_attestation.evidence import Binding, Endorsements, claims_binding
from keep_attestation.verdict import Freshness
from keep_protocol.evidence import EvidenceKind, qualifying_data, report_data

CLAIMS = b"encoded claims"


def test_endorsements_add_up_without_repetitions_and_in_order() -> None:
    host = Endorsements(certificates=(b"vcek", b"ask"), crls=(b"crl",))
    found = Endorsements(certificates=(b"ask", b"ark"), crls=(b"crl", b"other"))
    assert host + found == Endorsements(certificates=(b"vcek", b"ask", b"ark"), crls=(b"crl", b"other"))
    assert Endorsements() + host == host + Endorsements() == host


def test_collateral_that_came_along_stays() -> None:
    # A source is asked for what is missing; it does not replace what the verdict was asked for.
    came, found = Endorsements(collateral=b"came"), Endorsements(collateral=b"found")
    assert (came + found).collateral == b"came"
    assert (Endorsements() + found).collateral == b"found"


def test_claims_are_bound_in_the_form_of_every_kind_of_hardware() -> None:
    assert claims_binding(CLAIMS, b"spki", nonce=b"nonce", freshness=Freshness.CONNECTION) == Binding(
        report_data=report_data(CLAIMS),
        qualifying_data=qualifying_data(CLAIMS),
        user_data=CLAIMS,
        public_key=b"spki",
        nonce=b"nonce",
        freshness=Freshness.CONNECTION,
    )


def test_a_binding_by_a_key_alone_has_no_nonce() -> None:
    binding = claims_binding(CLAIMS, b"spki", nonce=None, freshness=Freshness.KEY)
    assert (binding.nonce, binding.freshness) == (None, Freshness.KEY)


def test_media_types_of_kinds_differ_and_name_simulated_evidence_as_such() -> None:
    types = {
        name for kind in EvidenceKind for name in (kind.media_type, kind.endorsements_media_type, kind.log_media_type)
    }
    assert len(types) == 3 * len(EvidenceKind)
    assert EvidenceKind.SIMULATED.media_type == "application/vnd.wasmkeep.simulated"
