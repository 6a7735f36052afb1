"""Sealing over the API: who may, when, and what a client is told."""

from __future__ import annotations

import base64
import socket
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from app_loader.attesters.selection import TpmQuoter
from app_loader.evidence import EvidenceMaker
from app_loader.keep import Keep
from app_loader.messages import Response
from keep_protocol.evidence import EvidenceKind
from keep_protocol.sealing_api import CounterSource, KeyKind, Sealed, Unsealed
from tests.swtpm import running_swtpm
from tests.unit.app_loader.asking import ask, problem, request
from tests.unit.app_loader.bare_keep import bare_keep
from tests.unit.app_loader.execution_harness import spec

T = TypeVar("T")

HOST_KEY = base64.b64encode(bytes(32)).decode()
DATA = base64.b64encode(b"canary-2f9d").decode()


def keep_in(state: Path, *keys: str, evidence: EvidenceKind | None = None) -> Keep:
    return bare_keep(msgspec.structs.replace(spec(), evidence=evidence), state=state, sealing_keys=keys)


@pytest.fixture
def keep(tmp_path: Path) -> Keep:
    return keep_in(tmp_path, HOST_KEY)


def test_a_keep_that_attests_by_a_tpm_seals_by_it_and_not_by_its_hosts_key(tmp_path: Path) -> None:
    with running_swtpm() as path, socket.socket(socket.AF_UNIX) as tpm:
        tpm.connect(str(path))
        sealed = [
            answer(post(tpm_keep(tmp_path, tpm.fileno()), "/v1/seal", attested=True, purpose="p", data=DATA), Sealed)
            for _ in range(2)
        ]
        again = tpm_keep(tmp_path, tpm.fileno())
        body = {"sealed": sealed[0].sealed, "allow_rollback": True}
        asked = request("POST", "/v1/unseal", msgspec.json.encode(body), {"content-type": "application/json"})
        asked.session.attested = True
        unsealed = answer(ask(asked, again), Unsealed)
    assert unsealed.data == DATA
    assert sealed[0].key == sealed[1].key == unsealed.header.key
    assert unsealed.header.key.kind is KeyKind.TPM


def test_a_keep_with_a_tpm_refuses_what_is_older_than_the_latest_and_says_which_counter_it_was(tmp_path: Path) -> None:
    with running_swtpm() as path, socket.socket(socket.AF_UNIX) as tpm:
        tpm.connect(str(path))
        keep = tpm_keep(tmp_path, tpm.fileno())
        old, new = (answer(post(keep, "/v1/seal", attested=True, purpose="p", data=DATA), Sealed) for _ in range(2))
        after_restart = tpm_keep(tmp_path, tpm.fileno())
        opened = answer(post(after_restart, "/v1/unseal", attested=True, sealed=new.sealed), Unsealed)
        refused = problem(post(after_restart, "/v1/unseal", attested=True, sealed=old.sealed))
        any_age = post(after_restart, "/v1/unseal", attested=True, sealed=old.sealed, allow_rollback=True)
    assert (opened.data, opened.rollback_protected) == (DATA, True)
    assert (new.counted_by, opened.header.counter) == (CounterSource.TPM, new.counter)
    assert refused.code == "rollback-refused"
    assert not answer(any_age, Unsealed).rollback_protected


def tpm_keep(state: Path, descriptor: int) -> Keep:
    keep = keep_in(state, HOST_KEY, evidence=EvidenceKind.TPM)
    keep.evidence = EvidenceMaker(TpmQuoter(descriptor), keep=keep.id, backend="process", spec_sha256=bytes(32))
    keep.sealer.evidence = keep.evidence
    return keep


def test_without_its_tpm_such_a_keep_seals_nothing(tmp_path: Path) -> None:
    keep = keep_in(tmp_path, HOST_KEY, evidence=EvidenceKind.TPM)
    refused = post(keep, "/v1/seal", attested=True, purpose="p", data=DATA)
    assert problem(refused).code == "sealing-unavailable"


def post(keep: Keep, path: str, *, attested: bool = False, **fields: object) -> Response:
    asked = request("POST", path, msgspec.json.encode(fields), {"content-type": "application/json"})
    asked.session.attested = attested
    return ask(asked, keep)


def answer(response: Response, kind: type[T]) -> T:
    assert response.status == 200, response.body
    assert isinstance(response.body, bytes)
    return msgspec.json.decode(response.body, type=kind)


def test_what_is_sealed_is_unsealed_also_after_a_restart(keep: Keep, tmp_path: Path) -> None:
    sealed = answer(post(keep, "/v1/seal", purpose="backup", data=DATA, counter=3), Sealed)
    assert sealed.key.kind is KeyKind.HOST
    again = keep_in(tmp_path, HOST_KEY)
    unsealed = answer(post(again, "/v1/unseal", sealed=sealed.sealed, expected_counter=3), Unsealed)
    assert (unsealed.data, unsealed.rollback_protected) == (DATA, True)
    assert (unsealed.header.purpose, unsealed.header.counter, unsealed.header.key) == ("backup", 3, sealed.key)


def test_without_a_counter_the_verdict_says_that_nothing_protects_from_a_rollback(keep: Keep) -> None:
    sealed = answer(post(keep, "/v1/seal", purpose="backup", data=DATA), Sealed)
    refused = post(keep, "/v1/unseal", sealed=sealed.sealed)
    assert (refused.status, problem(refused).code) == (409, "rollback-refused")
    unsealed = answer(post(keep, "/v1/unseal", sealed=sealed.sealed, allow_rollback=True), Unsealed)
    assert not unsealed.rollback_protected


def test_refusals_have_codes_of_their_own(keep: Keep, tmp_path: Path) -> None:
    sealed = answer(post(keep, "/v1/seal", purpose="backup", data=DATA, counter=3), Sealed).sealed

    def code(**fields: object) -> str:
        body = {"sealed": sealed, "allow_rollback": True} | fields
        asked = request("POST", "/v1/unseal", msgspec.json.encode(body), {"content-type": "application/json"})
        return problem(ask(asked, keep)).code

    assert code(expected_counter=4) == "rollback-refused"
    assert code(purpose="other") == "sealed-invalid"
    assert code(sealed=base64.b64encode(b"KSE1").decode()) == "sealed-invalid"
    raw = bytearray(base64.b64decode(sealed))
    raw[-1] ^= 1
    assert code(sealed=base64.b64encode(raw).decode()) == "sealed-invalid"
    assert code(sealed="A") == "field-invalid"
    other = keep_in(tmp_path, base64.b64encode(b"o" * 32).decode())
    assert problem(post(other, "/v1/unseal", sealed=sealed, allow_rollback=True)).code == "sealing-key-unknown"
    assert problem(post(keep, "/v1/seal", purpose="p", data=DATA, bind=["chip"])).code == "field-invalid"
    assert problem(post(keep, "/v1/seal", purpose="p", data=DATA, bind=["weather"])).code == "field-invalid"
    assert problem(post(keep, "/v1/seal", purpose="p q", data=DATA)).code == "field-invalid"
    assert problem(post(keep_in(tmp_path), "/v1/seal", purpose="p", data=DATA)).code == "sealing-unavailable"


def test_too_much_is_not_sealed(keep: Keep) -> None:
    much = base64.b64encode(bytes(512 * 1024 + 1)).decode()
    assert problem(post(keep, "/v1/seal", purpose="p", data=much)).code == "body-too-large"
    most = base64.b64encode(bytes(512 * 1024)).decode()
    sealed = answer(post(keep, "/v1/seal", purpose="p", data=most), Sealed).sealed
    assert answer(post(keep, "/v1/unseal", sealed=sealed, allow_rollback=True), Unsealed).data == most


@pytest.mark.parametrize("path", ["/v1/seal", "/v1/unseal"])
def test_a_keep_with_evidence_seals_nothing_before_it_has_proven_itself(tmp_path: Path, path: str) -> None:
    keep = keep_in(tmp_path, HOST_KEY, evidence=EvidenceKind.SIMULATED)
    refused = post(keep, path, purpose="p", data=DATA)
    assert (refused.status, problem(refused).code) == (403, "attestation-required")
    if path == "/v1/seal":
        assert post(keep, path, attested=True, purpose="p", data=DATA).status == 200
