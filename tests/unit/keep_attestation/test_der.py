"""DER is taken apart in one way only, and certificates as asn1crypto, which is another reading of X.690, takes them."""

from __future__ import annotations

from pathlib import Path

import pytest
from asn1crypto import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from keep_attestation.certificates import integer, octet_string, read_certificate
from keep_attestation.der import INTEGER, OCTET_STRING, SEQUENCE, DerReader, one
from keep_attestation.errors import MalformedCertificateError
from keep_attestation.snp.anchors import PRODUCTION_ANCHORS
from tests.unit.keep_attestation.ratls.makers import FakeKeep
from tests.unit.keep_attestation.snp.forge import fake_amd

CERTIFICATES = (
    PRODUCTION_ANCHORS[0].ark.der,
    PRODUCTION_ANCHORS[2].asvk.der,
    fake_amd().vcek().certificate,
    FakeKeep().certificate(),
)


def test_elements_are_taken_one_after_the_other() -> None:
    reader = DerReader(bytes.fromhex("3006 020105 040161 0500".replace(" ", "")))
    inner = reader.inside(SEQUENCE)
    assert (inner.is_next(INTEGER), inner.both(INTEGER)) == (True, (b"\x02\x01\x05", b"\x05"))
    assert (inner.whole(OCTET_STRING), inner.ended) == (b"\x04\x01\x61", True)
    with pytest.raises(MalformedCertificateError, match="INTEGER is expected, the end came"):
        inner.take(INTEGER)
    with pytest.raises(MalformedCertificateError, match="2 bytes follow"):
        reader.end()
    assert one(b"\x04\x81\x80" + bytes(128), OCTET_STRING) == bytes(128)


@pytest.mark.parametrize(
    "data",
    ["", "04", "0401", "0480", "04800000", "04810161", "0482000161", "048500000000016161", "04ff", "3000", "04016161"],
)
def test_other_forms_of_length_and_rests_are_refused(data: str) -> None:
    with pytest.raises(MalformedCertificateError, match="DER"):
        one(bytes.fromhex(data), OCTET_STRING)


def test_numbers_and_bytes_in_extensions() -> None:
    assert (integer(b"\x02\x01\x80"), integer(b"\x02\x02\x00\x80")) == (-128, 128)
    assert octet_string(b"\x04\x00") == b""
    for wrong in (b"\x02\x00", b"\x04\x01\x05", b"\x02\x01\x05\x00"):
        with pytest.raises(MalformedCertificateError):
            integer(wrong)


def test_certificates_are_read_as_by_another_library(vectors: Path) -> None:
    ders = [path.read_bytes() for path in vectors.rglob("*.der")]
    for der in (*CERTIFICATES, *ders):
        if agrees(der) is None:
            continue
        assert agrees(der), der[:40].hex()


@settings(derandomize=True, max_examples=400, deadline=None)
@given(
    der=st.sampled_from(CERTIFICATES),
    edits=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=3),
)
def test_what_is_read_of_a_changed_certificate_is_read_by_the_other_too(
    der: bytes, edits: list[tuple[int, int]]
) -> None:
    changed = bytearray(der)
    for offset, value in edits:
        changed[offset % len(changed)] = value
    assert agrees(bytes(changed)) is not False


def agrees(der: bytes) -> bool | None:
    """Whether both readers see the same certificate; None when ours sees none."""
    try:
        ours = read_certificate(der)
    except MalformedCertificateError:
        return None
    theirs = x509.Certificate.load(der, strict=True)
    body = theirs["tbs_certificate"]
    extensions = {each["extn_id"].dotted: each["extn_value"].contents for each in body["extensions"]}
    return (
        ours.signed == body.dump()
        and ours.signature == theirs["signature_value"].native
        and ours.spki == body["subject_public_key_info"].dump()
        and (ours.subject, ours.issuer) == (body["subject"].dump(), body["issuer"].dump())
        and (ours.not_before, ours.not_after) == (theirs.not_valid_before, theirs.not_valid_after)
        and ours.serial == theirs.serial_number
        and ours.extensions == extensions
        and ours.critical == {each["extn_id"].dotted for each in body["extensions"] if each["critical"].native}
    )
