"""Whether documents are trusted only under AWS's root, in their time, and for what they are bound to."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import cbor2
import msgspec
import pytest
from asn1crypto import core, keys, x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from keep_attestation.evidence import Binding
from keep_attestation.nitro.verifier import examine_nitro
from keep_attestation.verdict import Examination, Outcome
from tests.unit.keep_attestation.nitro.forge import MADE_AT, Module, binding_of, issue, nitro_evidence

MODULE = Module()


def examined(document: bytes, **arguments: Any) -> Examination:
    defaults: dict[str, Any] = {"binding": binding_of(document), "at": MADE_AT, "anchors": {MODULE.root.sha256}}
    crls = arguments.pop("crls", ())
    return examine_nitro(nitro_evidence(document, *crls), **(defaults | arguments))


def refusals(examination: Examination) -> dict[str, str]:
    return {check.name: check.reason for check in examination.checks if check.outcome is Outcome.FAIL}


def test_a_genuine_document_passes_every_check() -> None:
    examination = examined(MODULE.document())
    assert not refusals(examination)
    assert [check.name for check in examination.checks] == [
        "nitro.chain",
        "nitro.revocation",
        "nitro.time",
        "nitro.signature",
        "nitro.binding",
    ]
    assert examination.facts["revocation_checked"] is False


def test_a_root_of_the_same_name_that_is_not_aws_s_is_refused() -> None:
    document = MODULE.document()
    examination = examine_nitro(nitro_evidence(document), binding=binding_of(document), at=MADE_AT)
    assert "not AWS's root G1" in refusals(examination)["nitro.chain"]
    assert not any(check.outcome is Outcome.PASS for check in examination.checks)


def test_a_leaf_of_another_authority_under_the_pinned_root_is_refused() -> None:
    foreign = Module()
    document = foreign.document(cabundle=[MODULE.root.der, foreign.intermediate.der])
    assert "signature is not by" in refusals(examined(document))["nitro.chain"]


def test_a_document_signed_by_an_intermediate_is_refused_when_the_leaf_is_left_out_of_the_chain() -> None:
    end_entity = issue("not a CA", ca=False)
    leaf = end_entity.issue("i-0123-enc0456", ca=False)
    forged = Module(root=MODULE.root)
    forged.leaf = leaf
    assert "nitro.chain" in refusals(examined(forged.document(cabundle=[MODULE.root.der, end_entity.der])))


def test_a_stale_document_is_refused_with_the_dates_of_its_leaf() -> None:
    reasons = refusals(examined(MODULE.document(), at=MADE_AT + timedelta(hours=4)))
    assert "2026-06-01T14:00:00Z" in reasons["nitro.chain"]


def test_a_document_made_outside_its_leaf_s_life_is_refused() -> None:
    late = int((MADE_AT - timedelta(hours=2)).timestamp() * 1000)
    assert "when the document was made" in refusals(examined(MODULE.document(timestamp=late)))["nitro.chain"]


def test_a_document_from_the_future_is_refused() -> None:
    soon = int((MADE_AT + timedelta(minutes=30)).timestamp() * 1000)
    assert "clocks" in refusals(examined(MODULE.document(timestamp=soon)))["nitro.time"]


def test_an_expired_intermediate_is_refused() -> None:
    module = Module(root=MODULE.root)
    module.intermediate = module.root.issue("region", ca=True, not_before=MADE_AT - timedelta(days=9))
    module.leaf = module.intermediate.issue("i-0123-enc0456", ca=False)
    assert "nitro.chain" in refusals(examined(module.document()))


def test_a_revoked_intermediate_is_refused_and_a_clean_list_is_recorded() -> None:
    serial = MODULE.intermediate.certificate.serial_number
    clean = (MODULE.root.crl(), MODULE.intermediate.crl())
    examination = examined(MODULE.document(), crls=clean)
    assert not refusals(examination)
    assert examination.facts["revocation_checked"] is True
    assert "revoked" in refusals(examined(MODULE.document(), crls=(MODULE.root.crl(serial),)))["nitro.revocation"]


def test_stale_and_foreign_revocation_lists_are_refused() -> None:
    stale = MODULE.root.crl(this_update=MADE_AT - timedelta(days=30))
    assert "current from" in refusals(examined(MODULE.document(), crls=(stale,)))["nitro.revocation"]
    foreign = issue("somebody", ca=True).crl()
    assert "no certificate of the chain" in refusals(examined(MODULE.document(), crls=(foreign,)))["nitro.revocation"]


def test_a_document_signed_by_another_key_is_refused() -> None:
    document = MODULE.sign(cbor2.dumps(MODULE.payload()), key=ec.generate_private_key(ec.SECP384R1()))
    assert "COSE signature" in refusals(examined(document))["nitro.signature"]


def test_a_payload_spliced_under_another_signature_is_refused() -> None:
    protected, unprotected, _, signature = cbor2.loads(MODULE.document())
    spliced = cbor2.dumps([protected, unprotected, cbor2.dumps(MODULE.payload(user_data=b"other")), signature])
    assert "nitro.signature" in refusals(examined(spliced))


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_a_leaf_key_on_another_curve_is_refused(curve: ec.EllipticCurve) -> None:
    module = Module(root=MODULE.root)
    module.leaf = module.intermediate.issue("i-0123-enc0456", ec.generate_private_key(curve), ca=False)
    document = module.sign(cbor2.dumps(module.payload()), key=ec.generate_private_key(ec.SECP384R1()))
    assert "P-384" in refusals(examined(document))["nitro.signature"]


def test_a_compressed_leaf_key_is_refused() -> None:
    module = Module(root=MODULE.root)
    key = module.leaf.key
    point = key.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
    whole = key.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    compressed = with_public_key(module, whole, point)
    assert "P-384" in refusals(examined(module.document(certificate=compressed)))["nitro.signature"]


def with_public_key(module: Module, old: bytes, new: bytes) -> bytes:
    """The leaf with the point `new` in place of `old`, signed again by the intermediate."""
    leaf = x509.Certificate.load(module.leaf.der)
    body = leaf["tbs_certificate"].copy()
    body["subject_public_key_info"] = keys.PublicKeyInfo(
        {"algorithm": body["subject_public_key_info"]["algorithm"], "public_key": keys.ECPointBitString(new)}
    )
    assert old not in body.dump(force=True)
    signature = module.intermediate.key.sign(body.dump(force=True), ec.ECDSA(hashes.SHA384()))
    certificate = x509.Certificate(
        {
            "tbs_certificate": body,
            "signature_algorithm": leaf["signature_algorithm"],
            "signature_value": core.OctetBitString(signature),
        }
    )
    return bytes(certificate.dump())


def test_an_rsa_leaf_key_is_refused() -> None:
    module = Module(root=MODULE.root)
    module.leaf = module.intermediate.issue("i-0123-enc0456", rsa_key(), ca=False)
    document = module.sign(cbor2.dumps(module.payload()), key=ec.generate_private_key(ec.SECP384R1()))
    assert "P-384" in refusals(examined(document))["nitro.signature"]


def rsa_key() -> Any:
    return rsa.generate_private_key(65537, 2048)


@pytest.mark.parametrize("member", ["user_data", "public_key", "nonce"])
def test_a_document_bound_to_something_else_is_refused(member: str) -> None:
    document = MODULE.document()
    expected = msgspec.structs.replace(binding_of(document), **{member: b"something else"})
    assert member in refusals(examined(document, binding=expected))["nitro.binding"]
    longer = msgspec.structs.replace(binding_of(document), **{member: getattr(binding_of(document), member) + b"\0"})
    assert member in refusals(examined(document, binding=longer))["nitro.binding"]


def test_a_nonce_where_none_is_expected_is_refused_and_an_empty_one_is_none() -> None:
    without = msgspec.structs.replace(binding_of(MODULE.document()), nonce=None)
    assert "nonce" in refusals(examined(MODULE.document(), binding=without))["nitro.binding"]
    for empty in (b"", None, ...):
        assert not refusals(examined(MODULE.document(nonce=empty), binding=without))


def test_a_binding_for_another_kind_is_refused() -> None:
    assert (
        "demanded no" in refusals(examined(MODULE.document(), binding=Binding(report_data=bytes(64))))["nitro.binding"]
    )


def test_without_a_binding_the_document_is_genuine_and_nothing_is_claimed_of_its_freshness() -> None:
    examination = examined(MODULE.document(), binding=None)
    assert not refusals(examination)
    assert examination.checks[-1].outcome is Outcome.NOTE


def test_the_identity_ignores_the_unsigned_tag_and_the_signature_s_mirror_image() -> None:
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
    document = MODULE.document()
    protected, unprotected, payload, signature = cbor2.loads(document)
    mirrored = signature[:48] + (order - int.from_bytes(signature[48:], "big")).to_bytes(48, "big")
    other = cbor2.dumps([protected, unprotected, payload, mirrored])
    assert not refusals(examined(other))
    assert examined(other).identity == examined(b"\xd2" + document).identity == examined(document).identity
