"""Extensions of versioned endorsement keys."""

from __future__ import annotations

import pytest
from asn1crypto import core
from hypothesis import given, settings
from hypothesis import strategies as st

from keep_attestation.certificates import read_certificate
from keep_attestation.errors import MalformedEvidenceError
from keep_attestation.snp.products import Product, TcbVersion
from keep_attestation.snp.vek import EndorsementKey, endorsement_key_of, read_vek
from tests.unit.keep_attestation.snp.forge import CSP_ID, fake_amd

MILAN = fake_amd(Product.MILAN)
TURIN = fake_amd(Product.TURIN)
VCEK = MILAN.vcek()


def integer(value: int) -> bytes:
    return bytes(core.Integer(value).dump())


def test_a_vcek_names_chip_product_and_tcb() -> None:
    certificate = read_certificate(VCEK.certificate)
    vek = read_vek(certificate)
    assert certificate.serial == 0
    assert (vek.key, vek.product, vek.product_name) == (EndorsementKey.VCEK, Product.MILAN, "Milan-B0")
    assert vek.tcb == TcbVersion(bl=4, tee=0, snp=0x18, ucode=0xDB)
    assert vek.hardware_id == bytes(range(1, 65))
    assert vek.csp_id is None


def test_a_vlek_names_its_provider() -> None:
    vek = read_vek(read_certificate(MILAN.vlek().certificate))
    assert (vek.key, vek.hardware_id, vek.csp_id) == (EndorsementKey.VLEK, None, CSP_ID)


@pytest.mark.parametrize("product", Product)
def test_a_chips_id_may_be_wrapped_in_an_octet_string(product: Product) -> None:
    amd = fake_amd(product)
    plain = read_vek(read_certificate(amd.vcek().certificate))
    assert read_vek(read_certificate(amd.vcek(wrapped_hardware_id=True).certificate)) == plain


@pytest.mark.parametrize(
    ("part", "content", "reason"),
    [
        ("1", integer(2), "structVersion"),
        ("2", core.IA5String("Rome").dump(), "unknown product 'Rome'"),
        ("2", core.UTF8String("Milan").dump(), "IA5String"),
        ("2", b"\x16\x05Milan\x00", "IA5String"),
        ("2", b"\x16\x01\xff", "IA5String"),
        ("3.1", integer(256), "blSPL is 256"),
        ("3.3", integer(-1), "snpSPL is -1"),
        ("3.8", core.OctetString(b"\x01").dump(), "INTEGER"),
        ("3.4", integer(1), "spare"),
        ("3.9", integer(0), "FMC"),
        ("4", bytes(63), "OCTET STRING"),
        ("4", bytes(8), "64 bytes, 8 came"),
        ("4", b"\x04\x41" + bytes(65), "64 bytes, 65 came"),
        ("5", core.IA5String(CSP_ID).dump(), "chip"),
    ],
)
def test_extensions_that_are_not_amds_are_malformed(part: str, content: bytes, reason: str) -> None:
    chip = MILAN.vcek(replaced={part: content})
    with pytest.raises(MalformedEvidenceError, match=reason):
        read_vek(read_certificate(chip.certificate))


def test_a_turins_key_has_an_fmc_level_and_an_id_of_8_bytes() -> None:
    vek = read_vek(read_certificate(TURIN.vcek().certificate))
    assert vek.tcb.fmc == 0
    assert vek.hardware_id == bytes(range(1, 9))
    with pytest.raises(MalformedEvidenceError, match="8 bytes, 64 came"):
        read_vek(read_certificate(TURIN.vcek(hardware_id=bytes(range(64))).certificate))


def test_authorities_are_no_endorsement_keys() -> None:
    for certificate in MILAN.hierarchy.certificates:
        assert endorsement_key_of(certificate) is None
        with pytest.raises(MalformedEvidenceError, match="neither"):
            read_vek(certificate)


@settings(derandomize=True, max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(VCEK.certificate) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_certificates_raise_nothing_but_our_error(edits: list[tuple[int, int]]) -> None:
    changed = bytearray(VCEK.certificate)
    for offset, value in edits:
        changed[offset] = value
    try:
        read_vek(read_certificate(bytes(changed)))
    except MalformedEvidenceError:
        return
