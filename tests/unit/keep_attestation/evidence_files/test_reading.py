"""Files that are no evidence, or nearly: refused with what was looked for, and by our own errors alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keep_attestation.errors import AttestationError, EndorsementsError, MalformedEvidenceError
from keep_attestation.evidence_files.content import Content
from keep_attestation.evidence_files.pcr_values import read_pcr_values
from keep_attestation.evidence_files.reading import UnknownContentError, detect, read_evidence
from keep_attestation.evidence_files.recognition import recognise
from keep_protocol.evidence import EvidenceKind
from keep_protocol.simulated import encode_signed_part, encode_simulated

SIMULATED = encode_simulated(encode_signed_part(bytes(64), bytes(32)), bytes(64))
_STARTS = (b"", b"HCLA", b"CCEL", b"\x84\x44\xa1\x01\x38\x22", bytes.fromhex("ff5443478018"), b"0\x82\x01\x00", b"{")


def test_simulated_evidence_is_seen_in_its_bytes() -> None:
    assert detect(SIMULATED) is EvidenceKind.SIMULATED
    assert detect(SIMULATED.hex().encode()) is EvidenceKind.SIMULATED


def test_an_unknown_file_is_refused_with_what_was_looked_for(tmp_path: Path) -> None:
    (path := tmp_path / "report.bin").write_bytes(b"hello")
    with pytest.raises(UnknownContentError, match=r"5 bytes, beginning with 68656c6c6f, are none of: an AMD SEV-SNP"):
        read_evidence(path)


def test_kind_overrides_what_the_bytes_look_like(tmp_path: Path) -> None:
    (path := tmp_path / "x").write_bytes(b"hello")
    evidence = read_evidence(path, kind=EvidenceKind.TDX).evidence
    assert (evidence.kind, evidence.body) == (EvidenceKind.TDX, b"hello")


def test_pem_is_not_taken_for_base64() -> None:
    # Without its line breaks it is base64url from end to end.
    pem = b"-----BEGIN CERTIFICATE-----\n" + b"A" * 64 + b"\n-----END CERTIFICATE-----\n"
    with pytest.raises(UnknownContentError, match="2d2d2d2d2d"):
        recognise(pem)


def test_endorsements_that_are_none_are_refused_when_named(tmp_path: Path) -> None:
    (evidence := tmp_path / "evidence").write_bytes(SIMULATED)
    (wrong := tmp_path / "wrong").write_bytes(b"hello")
    with pytest.raises(EndorsementsError, match="wrong cannot be used"):
        read_evidence(evidence, endorsements=[wrong])
    with pytest.raises(EndorsementsError, match="expected an event log"):
        read_evidence(evidence, log=evidence)
    with pytest.raises(EndorsementsError, match="cannot be read"):
        read_evidence(tmp_path / "nothing")


def test_an_empty_folder_holds_no_evidence(tmp_path: Path) -> None:
    with pytest.raises(UnknownContentError, match="holds no evidence; it holds nothing known"):
        read_evidence(tmp_path)


def test_pcr_values_are_read_by_register_by_bank_and_as_a_list() -> None:
    one, other = "11" * 32, "22" * 20
    by_register = read_pcr_values(f'{{"7": "{one}"}}'.encode())
    assert by_register == read_pcr_values(f'{{"sha256": {{"7": "0x{one}"}}}}'.encode()) == {11: {7: bytes([0x11]) * 32}}
    assert read_pcr_values(f'["{one}", "{one}"]'.encode())[11].keys() == {0, 1}
    assert read_pcr_values(f'{{"sha1": {{"0": "{other}"}}, "sha256": {{"0": "{one}"}}}}'.encode()).keys() == {4, 11}
    for wrong in (b'{"24": "%s"}' % one.encode(), b'{"0": "zz"}', b'{"0": "11"}', b"[", b'{"a": "%s"}' % one.encode()):
        with pytest.raises(MalformedEvidenceError):
            read_pcr_values(wrong)


def test_signatures_are_recognised_only_when_nothing_else_fits() -> None:
    assert recognise(bytes([0xA5]) * 256).content is Content.RAW_SIGNATURE
    with pytest.raises(UnknownContentError):
        recognise(bytes([0xA5]) * 255)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.sampled_from(_STARTS), st.binary(max_size=1400))
def test_any_bytes_are_recognised_or_refused_by_our_own_error(start: bytes, rest: bytes) -> None:
    try:
        part = recognise(start + rest)
    except UnknownContentError:
        return
    assert part.content in Content


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.sampled_from(_STARTS), st.binary(max_size=200), st.sampled_from(EvidenceKind))
def test_no_file_raises_anything_else_than_our_errors(start: bytes, rest: bytes, kind: EvidenceKind) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        (path := Path(folder, "x")).write_bytes(start + rest)
        for chosen in (None, kind):
            try:
                read_evidence(path, kind=chosen)
            except AttestationError:
                continue
