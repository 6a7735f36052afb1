"""Looks at a keep: TLS and the attestation request, and not one byte more."""

from __future__ import annotations

import socket
import ssl
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from keep_attestation.policy import Policy
from keep_attestation.ratls.peer import ExpectedKeep, PeerVerdict
from keep_client import ConnectionFailedError, Credentials, PeerRefusedError
from keep_client.addresses import endpoint_url
from keep_client.attested_peer import AttestedPeer
from keep_client.attested_tls import AttestedTls, attested_context
from keep_client.errors import EvidenceRefusedError

_TIMEOUT = 30.0
_READ = 64 * 1024


@dataclass(slots=True)
class Observation:
    """What a keep showed."""

    verdict: PeerVerdict | None = None
    """The last one: of phase two if it came to that. None when nothing could be read."""
    collection: bytes | None = None
    """Its answer to the challenge, as it came."""
    refusal: str | None = None
    """Why it did not come to an end."""


@dataclass(frozen=True)
class _Witness(AttestedPeer):
    """Keeps what the connection shows."""

    seen: Observation = field(default_factory=Observation)

    def check_fresh(self, collection: bytes, der: bytes, *, nonce: bytes, exporter: bytes) -> None:
        self.seen.collection = collection
        super().check_fresh(collection, der, nonce=nonce, exporter=exporter)


def observe(endpoint: str, credentials: Credentials, policy: Policy, expected: ExpectedKeep) -> Observation:
    """Both phases with the keep at `endpoint` (`ADDRESS:PORT`), judged by `policy`.

    Raises `ConnectionFailedError`.
    """
    seen = Observation()

    def remember(verdict: PeerVerdict) -> None:
        seen.verdict = verdict

    peer = _Witness(policy, expected, observe=remember, seen=seen)
    address = urlsplit(endpoint_url(endpoint))
    tls = AttestedTls(attested_context(peer, credentials), peer)
    try:
        with socket.create_connection((address.hostname or "", address.port or 0), _TIMEOUT) as connection:
            _exchange(tls, connection)
    except EvidenceRefusedError as error:
        seen.refusal = str(error)
    except PeerRefusedError as error:
        seen.refusal, seen.verdict = str(error), None
    except (OSError, ssl.SSLError) as error:
        raise ConnectionFailedError(f"the keep at {endpoint} cannot be looked at: {error}") from error
    return seen


def _exchange(tls: AttestedTls, connection: socket.socket) -> None:
    steps = tls.establish()
    until = time.monotonic() + _TIMEOUT
    try:
        sending = next(steps)
        while True:
            if sending:
                connection.sendall(sending)
            connection.settimeout(max(0.001, until - time.monotonic()))
            sending = steps.send(connection.recv(_READ))
    except StopIteration:
        return
