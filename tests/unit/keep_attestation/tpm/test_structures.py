"""Whether a TPM's structures are read strictly."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from keep_attestation.errors import MalformedEvidenceError, UnsupportedEvidenceError
from keep_attestation.event_log.event import HashAlgorithm
from keep_attestation.tpm.bundle import decode_bundle
from keep_attestation.tpm.structures import SigningScheme, parse_attest, parse_public, parse_signature
from tests.unit.keep_attestation.tpm.forge import PCRS, SHA256, ForgedTpm, selection_of, u16, u32

TPM = ForgedTpm()
ATTEST = TPM.attest({SHA256: PCRS})
RSA = ForgedTpm(rsa.generate_private_key(65537, 2048), SigningScheme.RSASSA)


def test_a_quote_is_read_with_its_selection_in_order() -> None:
    attest = parse_attest(ATTEST)
    assert attest.selection == {SHA256: (0, 4, 7)}
    assert (attest.reset_count, attest.safe, attest.firmware) == (3, True, 0x2019)


@pytest.mark.parametrize("structure", ["attest", "signature", "public"])
def test_a_structure_cut_at_any_length_or_with_bytes_after_it_is_refused(structure: str) -> None:
    raw, parse = {
        "attest": (ATTEST, parse_attest),
        "signature": (TPM.sign(b""), parse_signature),
        "public": (TPM.public(), parse_public),
    }[structure]
    parse(raw)
    for length in range(len(raw)):
        with pytest.raises(MalformedEvidenceError):
            parse(raw[:length])
    with pytest.raises(MalformedEvidenceError, match="follow"):
        parse(raw + b"\x00")


def test_data_that_no_tpm_wrote_is_no_quote() -> None:
    with pytest.raises(MalformedEvidenceError, match="TPM_GENERATED"):
        parse_attest(TPM.attest({SHA256: PCRS}, magic=0xFF544348))
    with pytest.raises(UnsupportedEvidenceError, match="0x8017"):
        parse_attest(TPM.attest({SHA256: PCRS}, kind=0x8017))


@pytest.mark.parametrize(
    "selection",
    [
        u32(17),
        u32(2) + (u16(SHA256) + b"\x03\x01\x00\x00") * 2,
        u32(1) + u16(SHA256) + b"\x04\x00\x00\x00\x01",
        u32(1) + u16(SHA256) + b"\x05\x00\x00\x00\x00\x00",
    ],
    ids=["too many banks", "a bank twice", "PCR 24", "five octets"],
)
def test_an_impossible_selection_is_refused(selection: bytes) -> None:
    with pytest.raises(MalformedEvidenceError):
        parse_attest(TPM.attest({SHA256: PCRS}, selection=selection))


def test_signatures_of_other_schemes_and_hashes_are_refused_by_number() -> None:
    for scheme in (0x0005, 0x001A, 0x001B, 0x0010):
        with pytest.raises(UnsupportedEvidenceError, match=f"{scheme:#06x}"):
            parse_signature(u16(scheme) + TPM.sign(b"")[2:])
    for algorithm in (HashAlgorithm.SHA1, 0x0012, 0x0010):
        with pytest.raises(UnsupportedEvidenceError, match=f"{algorithm:#06x}"):
            parse_signature(TPM.sign(b"")[:2] + u16(algorithm) + TPM.sign(b"")[4:])


def test_keys_of_each_kind_are_read_and_named() -> None:
    for tpm in (TPM, RSA, ForgedTpm(ec.generate_private_key(ec.SECP384R1()))):
        public = parse_public(tpm.public())
        assert public.key == tpm.key.public_key()
        assert public.name == u16(SHA256) + SHA256.digest(tpm.public())


def test_points_off_the_curve_and_weak_moduli_are_refused() -> None:
    public = TPM.public()
    with pytest.raises(MalformedEvidenceError, match="point"):
        parse_public(public[:-1] + bytes([public[-1] ^ 1]))
    weak = RSA.public()
    with pytest.raises(MalformedEvidenceError, match="modulus"):
        parse_public(weak[:-1] + bytes([weak[-1] ^ 1]))
    short = weak[: weak.index(u16(2048) + u32(0))] + u16(1024) + u32(0) + u16(128) + b"\xff" * 128
    with pytest.raises(MalformedEvidenceError, match="modulus"):
        parse_public(short)


def test_selections_in_the_forge_are_those_of_a_tpm() -> None:
    assert selection_of({11: [0, 15, 16]}) == bytes.fromhex("00000001000b03018001")


@settings(max_examples=200, derandomize=True, deadline=None, database=None)
@given(st.data())
def test_whatever_comes_nothing_but_malformed_evidence_is_raised(data: st.DataObject) -> None:
    originals = {
        parse_attest: ATTEST,
        parse_signature: RSA.sign(b""),
        parse_public: data.draw(st.sampled_from([TPM.public(), RSA.public()])),
        decode_bundle: TPM.bundle(),
    }
    parse = data.draw(st.sampled_from(list(originals)))
    raw = bytearray(originals[parse])
    for offset, value in data.draw(st.lists(st.tuples(st.integers(0, 90), st.integers(0, 255)), max_size=4)):
        raw[offset % len(raw)] = value
    raw = raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw
    raw += data.draw(st.binary(max_size=8))
    try:
        parse(bytes(raw))
    except MalformedEvidenceError:
        return
