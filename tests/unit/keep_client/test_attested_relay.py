"""A relay between client and keep gets the fixed challenge at most, even with the keep's own TLS key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from keep_attestation.ratls.collection import decode_collection
from keep_client import Credentials
from keep_client.attested_tls import attestation_request
from keep_client.errors import ConnectionFailedError, EvidenceRefusedError
from tests.system.relay import Relay, disguised_key
from tests.unit.app_loader.attesting import AttestedServing, private_key_of
from tests.unit.app_loader.pki import Credential, self_signed
from tests.unit.keep_client.attested_keeps import (
    CHALLENGE_SIZE,
    Ask,
    ScriptedKeep,
    ask_async,
    ask_sync,
    nonce_of,
    ok,
    peer_for,
)

both = pytest.mark.parametrize("ask", [ask_sync, ask_async], ids=["sync", "async"])


@pytest.fixture
def alice() -> Credential:
    return self_signed()


@pytest.fixture
def mallory() -> Credential:
    """Who runs the relay, and is a principal of the keep as well."""
    return self_signed()


@pytest.fixture
def keep(tmp_path: Path, alice: Credential, mallory: Credential) -> Iterator[AttestedServing]:
    with AttestedServing(tmp_path, [alice.pinned(), mallory.pinned()]) as serving:
        yield serving


@pytest.fixture
def credentials(tmp_path: Path, alice: Credential) -> Credentials:
    return Credentials(alice.write(tmp_path), alice.write(tmp_path))


def relay_to(keep: AttestedServing, mallory: Credential, key: bytes) -> Relay:
    """A relay with the keep's certificate, and this private key (PEM)."""
    certificate, key_file = keep.folder / "shown.pem", keep.folder / "shown.key"
    certificate.write_text(keep.identity.certificate)
    key_file.write_bytes(key)
    return Relay(keep.endpoint, certificate=certificate, key=key_file, own=mallory.write(keep.folder))


@both
def test_without_the_keeps_key_it_cannot_finish_a_handshake_with_a_copied_certificate(
    ask: Ask, keep: AttestedServing, mallory: Credential, credentials: Credentials
) -> None:
    with relay_to(keep, mallory, disguised_key(keep.identity.certificate)) as relay:
        with pytest.raises(ConnectionFailedError, match="bad signature"):
            ask(relay.endpoint, peer_for(keep.spec), credentials)
        relay.finished()
    assert relay.from_clients == [b""]
    assert len(relay.failures) == 1
    assert keep.asked == []


@both
def test_with_the_keeps_key_it_gets_the_challenge_and_nothing_else(
    ask: Ask, keep: AttestedServing, mallory: Credential, credentials: Credentials
) -> None:
    with relay_to(keep, mallory, private_key_of(keep.identity)) as relay:
        with pytest.raises(EvidenceRefusedError, match="somebody relays evidence") as caught:
            ask(relay.endpoint, peer_for(keep.spec), credentials)
        relay.finished()
    (said,) = relay.from_clients
    assert said == attestation_request(nonce_of(said))
    # All else about the evidence is right: it is the exporter alone that gives the relay away.
    assert caught.value.verdict is not None
    assert [check.name for check in caught.value.verdict.verdict.failures] == ["ratls.exporter"]
    (answered,) = relay.from_keep
    relayed = decode_collection(answered.partition(b"\r\n\r\n")[2]).claims
    assert (relayed.nonce, relayed.spec_sha256) == (nonce_of(said), keep.spec_sha256)
    assert [(asked.method, asked.path) for asked in keep.asked] == [("POST", "/v1/attestation")]


@both
def test_the_keep_itself_is_accepted_by_the_same_client(
    ask: Ask, keep: AttestedServing, mallory: Credential, credentials: Credentials
) -> None:
    with relay_to(keep, mallory, private_key_of(keep.identity)) as relay:
        with pytest.raises(EvidenceRefusedError):
            ask(relay.endpoint, peer_for(keep.spec), credentials)
        assert ask(keep.endpoint, peer_for(keep.spec), credentials).id == keep.keep_id


@both
def test_evidence_that_a_relay_captured_is_of_no_use_to_it_later(
    ask: Ask, keep: AttestedServing, mallory: Credential, credentials: Credentials
) -> None:
    with relay_to(keep, mallory, private_key_of(keep.identity)) as relay:
        with pytest.raises(EvidenceRefusedError):
            ask(relay.endpoint, peer_for(keep.spec), credentials)
        relay.finished()
    captured = relay.from_keep[0].partition(b"\r\n\r\n")[2]
    with ScriptedKeep(keep.identity, lambda _: ok(captured)) as replaying:
        with pytest.raises(EvidenceRefusedError, match=r"ratls\.nonce: the claims hold another nonce"):
            ask(replaying.endpoint, peer_for(keep.spec), credentials)
        (seen,) = replaying.finished()
    assert len(seen.application) == CHALLENGE_SIZE
