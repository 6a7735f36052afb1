"""A relay between client and keep on real TLS 1.3: both connections export other bytes, whoever holds the key."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from OpenSSL import SSL

from keep_attestation.ratls.peer import new_nonce, verify_fresh, verify_peer
from keep_attestation.verdict import Freshness
from keep_protocol.evidence import EXPORTER_LABEL, EXPORTER_SIZE
from tests.unit.keep_attestation.ratls.makers import EXPECTED, POLICY, FakeKeep


class Connection:
    """Both ends of one TLS connection in memory; the server holds the keep's key."""

    def __init__(self, keep: FakeKeep, certificate: bytes) -> None:
        server = SSL.Context(SSL.TLS_SERVER_METHOD)
        server.set_min_proto_version(SSL.TLS1_3_VERSION)
        server.use_certificate(x509.load_der_x509_certificate(certificate))
        server.use_privatekey(keep.key)
        client = SSL.Context(SSL.TLS_CLIENT_METHOD)
        client.set_min_proto_version(SSL.TLS1_3_VERSION)
        self.server, self.client = SSL.Connection(server), SSL.Connection(client)
        self.server.set_accept_state()
        self.client.set_connect_state()
        for _ in range(4):
            for end, other in ((self.client, self.server), (self.server, self.client)):
                with contextlib.suppress(SSL.WantReadError):
                    end.do_handshake()
                with contextlib.suppress(SSL.WantReadError):
                    other.bio_write(end.bio_read(1 << 16))

    def shown_certificate(self) -> bytes:
        shown = self.client.get_peer_certificate(as_cryptography=True)
        assert shown is not None
        return shown.public_bytes(serialization.Encoding.DER)


def exporter(end: SSL.Connection, nonce: bytes) -> bytes:
    return end.export_keying_material(EXPORTER_LABEL, EXPORTER_SIZE, nonce)


@pytest.fixture(scope="module")
def keep() -> FakeKeep:
    return FakeKeep()


@pytest.fixture(scope="module")
def now() -> datetime:
    return datetime.now(UTC)


def certificate_of(keep: FakeKeep, now: datetime) -> bytes:
    return keep.certificate(keep.collection(issued_at=int(now.timestamp())), not_before=now)


def test_client_and_keep_on_one_connection_agree(keep: FakeKeep, now: datetime) -> None:
    connection = Connection(keep, certificate_of(keep, now))
    shown = connection.shown_certificate()
    assert verify_peer(shown, POLICY, expected=EXPECTED, at=now).accepted
    nonce = new_nonce()
    answer = keep.answer(nonce, exporter(connection.server, nonce), issued_at=int(now.timestamp()))
    peer = verify_fresh(answer, shown, nonce, exporter(connection.client, nonce), POLICY, expected=EXPECTED, at=now)
    assert peer.accepted, peer.verdict.summary
    assert peer.verdict.freshness is Freshness.CONNECTION


def test_a_relay_that_holds_the_keeps_tls_key_is_refused_in_phase_two(keep: FakeKeep, now: datetime) -> None:
    certificate = certificate_of(keep, now)
    to_relay, to_keep = Connection(keep, certificate), Connection(keep, certificate)
    shown = to_relay.shown_certificate()
    assert verify_peer(shown, POLICY, expected=EXPECTED, at=now).accepted, "phase one cannot tell a relay"
    nonce = new_nonce()
    # The relay forwards the nonce; the keep attests its own connection, which is the relay's.
    answer = keep.answer(nonce, exporter(to_keep.server, nonce), issued_at=int(now.timestamp()))
    peer = verify_fresh(answer, shown, nonce, exporter(to_relay.client, nonce), POLICY, expected=EXPECTED, at=now)
    assert [check.name for check in peer.verdict.failures] == ["ratls.exporter"]


def test_the_exporter_changes_with_the_nonce(keep: FakeKeep, now: datetime) -> None:
    connection = Connection(keep, certificate_of(keep, now))
    assert exporter(connection.client, new_nonce()) != exporter(connection.client, new_nonce())
