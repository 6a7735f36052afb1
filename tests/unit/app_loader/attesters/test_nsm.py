"""Nitro documents from /dev/nsm, against a fake that reads requests as the driver and the module do."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cbor2
import pytest

from app_loader.attesters import nsm
from app_loader.attesters.interface import Attestation, Statement
from app_loader.attesters.nsm import NitroAttester
from app_loader.errors import AttesterError
from keep_attestation.nitro.document import parse_document
from tests.unit.app_loader.attesters.fake_nsm import FakeNsm
from tests.unit.app_loader.attesters.vectors import vector

STATEMENT = Statement(claims=b"claims", spki=b"key", nonce=bytes(32))
DOCUMENT = b"document" * 500

Attest = Callable[..., Attestation]


def document(content: bytes) -> bytes:
    """The module's answer."""
    encoded: bytes = cbor2.dumps({"Attestation": {"document": content}})
    return encoded


@pytest.fixture
def attest(monkeypatch: pytest.MonkeyPatch) -> Attest:
    """Attests by a fake device."""

    def attest(device: FakeNsm, statement: Statement = STATEMENT) -> Attestation:
        monkeypatch.setattr(nsm, "DEVICE", Path("/dev/null"))
        monkeypatch.setattr(fcntl, "ioctl", device)
        return NitroAttester().attest(statement)

    return attest


def test_a_document_is_asked_for_over_claims_key_and_nonce(attest: Attest) -> None:
    device = FakeNsm(lambda _: document(DOCUMENT))
    assert attest(device) == (DOCUMENT, None, None)
    assert device.requests == [{"Attestation": {"user_data": b"claims", "public_key": b"key", "nonce": bytes(32)}}]


def test_the_request_is_one_cbor_item_of_text_and_byte_strings(attest: Attest) -> None:
    device = FakeNsm(lambda _: document(DOCUMENT))
    attest(device)
    assert cbor2.dumps(cbor2.loads(device.encoded[0])) == device.encoded[0]
    (members,) = device.requests[0].values()
    assert {type(value) for value in members.values()} == {bytes}


def test_without_a_nonce_none_is_asked_for(attest: Attest) -> None:
    device = FakeNsm(lambda _: document(DOCUMENT))
    attest(device, Statement(b"claims", b"key", None))
    assert device.requests == [{"Attestation": {"user_data": b"claims", "public_key": b"key"}}]


@pytest.mark.parametrize("tells_size", [True, False])
def test_padding_behind_the_answer_is_not_part_of_the_document(attest: Attest, tells_size: bool) -> None:
    device = FakeNsm(lambda _: document(DOCUMENT) + bytes(100), tells_size=tells_size)
    assert attest(device).evidence == DOCUMENT


def test_a_real_document_reaches_the_verifiers_parser(attest: Attest) -> None:
    real = vector("nitro/evervault-2022-10-nonce/doc.cbor")
    made = attest(FakeNsm(lambda _: document(real)))
    assert made.evidence == real
    assert parse_document(made.evidence).module_id.startswith("i-")


@pytest.mark.parametrize("size", [24, 255, 256, 0x2FE0])
def test_documents_of_all_sizes_that_fit_are_read(attest: Attest, size: int) -> None:
    assert attest(FakeNsm(lambda _: document(bytes(size)))).evidence == bytes(size)


@pytest.mark.parametrize("error", ["InputTooLarge", "InvalidOperation", "InternalError"])
def test_an_error_of_the_module_is_told_by_its_name(attest: Attest, error: str) -> None:
    with pytest.raises(AttesterError, match=f"made no document.*{error}"):
        attest(FakeNsm(lambda _: cbor2.dumps({"Error": error})))


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\0",
        cbor2.dumps("Attestation"),
        cbor2.dumps({"Attestation": {}}),
        cbor2.dumps({"Attestation": {"document": None}}),
        cbor2.dumps({"Attestation": {"document": "text" * 10}}),
        cbor2.dumps({"GetRandom": {"random": DOCUMENT}}),
    ],
)
def test_an_answer_that_is_no_document_is_refused(attest: Attest, answer: bytes) -> None:
    with pytest.raises(AttesterError, match=r"made no document|is cut short"):
        attest(FakeNsm(lambda _: answer))


def test_a_document_that_is_cut_short_is_refused(attest: Attest) -> None:
    whole = document(DOCUMENT)
    for size in (len(whole) - 1, len(whole) - len(DOCUMENT), 23, 24, 25):
        with pytest.raises(AttesterError, match="is cut short"):
            attest(FakeNsm(lambda _, size=size: whole[:size]))  # type: ignore[misc]


def test_a_document_that_does_not_fit_the_response_is_refused(attest: Attest) -> None:
    with pytest.raises(AttesterError, match="is cut short"):
        attest(FakeNsm(lambda _: document(bytes(0x3000))))


def test_a_request_that_the_module_would_not_take_is_not_sent(attest: Attest) -> None:
    device = FakeNsm(lambda _: document(DOCUMENT))
    with pytest.raises(AttesterError, match="at most 4096 bytes"):
        attest(device, Statement(bytes(4096), b"key", None))
    assert device.requests == []


def test_a_device_that_is_something_else_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nsm, "DEVICE", Path("/dev/null"))
    with pytest.raises(AttesterError, match="/dev/null: Inappropriate ioctl for device"):
        NitroAttester().attest(STATEMENT)


def test_a_machine_without_the_device_is_no_enclave(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(nsm, "DEVICE", tmp_path / "nsm")
    with pytest.raises(AttesterError, match="this is no Nitro enclave"):
        NitroAttester()


def test_any_exchange_can_stand_in_for_the_device() -> None:
    seen: list[Any] = []

    def exchange(request: bytes) -> bytes:
        seen.append(cbor2.loads(request))
        return document(DOCUMENT)

    assert NitroAttester(exchange).attest(STATEMENT).evidence == DOCUMENT
    assert len(seen) == 1
