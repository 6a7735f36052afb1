"""Certificate tables, as hosts hand them to guests."""

from __future__ import annotations

from uuid import UUID

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from keep_attestation.errors import MalformedEvidenceError
from keep_attestation.evidence import Endorsements
from keep_attestation.snp.certificate_table import endorsements_of_pem, endorsements_of_table, endorsements_of_thim
from tests.unit.keep_attestation.snp.forge import fake_amd

VCEK = UUID("63da758d-e664-4564-adc5-f4b93be8accd")
VLEK = UUID("a8074bc2-a25a-483e-aae6-39c045a0b8a1")
ASK = UUID("4ab7b379-bbac-4fe4-a02f-05aef327c782")
ARK = UUID("c0b406a4-a803-4952-9743-3fb6014cd0ae")
OTHER = UUID("ecae0c0f-9502-43b1-afa2-0ae2e0d565b6")


def table(*entries: tuple[UUID, bytes], end: bytes = bytes(24)) -> bytes:
    head, body = b"", b""
    start = 24 * len(entries) + len(end)
    for guid, content in entries:
        head += guid.bytes + (start + len(body)).to_bytes(4, "little") + len(content).to_bytes(4, "little")
        body += content
    return head + end + body


def entry(guid: UUID, offset: int, length: int) -> bytes:
    return guid.bytes + offset.to_bytes(4, "little") + length.to_bytes(4, "little")


def pem(*ders: bytes) -> str:
    # Serial number 0 stops `cryptography` from reading a VCEK; intermediates it reads.
    return "".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode() for der in ders)


def test_a_table_gives_its_certificates() -> None:
    found = endorsements_of_table(table((VCEK, b"vcek"), (ASK, b"ask"), (ARK, b"ark")) + bytes(100))
    assert found == Endorsements(certificates=(b"vcek", b"ask", b"ark"))
    assert endorsements_of_table(table((VLEK, b"vlek"))).certificates == (b"vlek",)


def test_entries_of_the_hosts_own_are_passed_over() -> None:
    assert endorsements_of_table(table((OTHER, b"host"), (VCEK, b"vcek"))).certificates == (b"vcek",)


def test_no_table_and_an_empty_one_give_nothing() -> None:
    assert endorsements_of_table(b"") == endorsements_of_table(bytes(24)) == Endorsements()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (table((VCEK, b"a"), end=b""), "expected"),
        (table((VCEK, b"a"), (VCEK, b"b")), "two entries"),
        (entry(VCEK, 48, 100) + bytes(24), "100 bytes at 0x30"),
        (entry(VCEK, 0xFFFFFFFF, 1) + bytes(24), "at 0xffffffff"),
        (entry(VCEK, 0, 0) + bytes(24), "0 bytes"),
        (bytes(15), "expected"),
        (bytes(256 * 1024 + 1), "at most"),
    ],
)
def test_tables_that_point_nowhere_are_malformed(data: bytes, reason: str) -> None:
    with pytest.raises(MalformedEvidenceError, match=reason):
        endorsements_of_table(data)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.binary(max_size=96).map(lambda tail: table((VCEK, b"vcek"), end=b"") + tail))
def test_no_table_raises_anything_but_our_error(data: bytes) -> None:
    try:
        found = endorsements_of_table(data)
    except MalformedEvidenceError:
        return
    assert all(certificate in data for certificate in found.certificates)


def test_a_pem_chain_gives_its_certificates() -> None:
    ders = tuple(certificate.der for certificate in fake_amd().hierarchy.certificates)
    assert endorsements_of_pem(pem(*ders).encode()).certificates == ders


def test_a_thim_reply_gives_key_and_chain() -> None:
    ark, ask, _ = (certificate.der for certificate in fake_amd().hierarchy.certificates)
    reply = {"vcekCert": pem(ask), "certificateChain": pem(ark), "tcbm": "0", "cacheControl": "86400"}
    assert endorsements_of_thim(msgspec.json.encode(reply)).certificates == (ask, ark)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b'{"vcekCert": 1}',
        b'{"vcekCert": "\xff"}',
        b'{"vcekCert": "\\ud800"}',
        b'{"vcekCert": "no PEM"}',
        b'{"vcekCert": ""}',
        b"[" * 20_000,
        b" " * (64 * 1024 + 1),
    ],
)
def test_other_json_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedEvidenceError):
        endorsements_of_thim(data)
