"""Keeps that prove themselves, or do not, and write down all that a client lets them see."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL, crypto

from app_loader.attesters.code_measurement import measure_code
from app_loader.attesters.interface import Attester
from app_loader.identity import Identity
from keep_attestation.policy import Policy, parse_policy
from keep_attestation.ratls.peer import ExpectedKeep
from keep_client import AsyncKeepClient, Credentials, KeepClient
from keep_client.attested_peer import AttestedPeer
from keep_protocol.evidence import EXPORTER_LABEL, EXPORTER_SIZE
from keep_protocol.keep_api import CMW_MEDIA_TYPE, KeepStatus, WorkloadInfo
from keep_protocol.spec import KeepSpec, canonical, spec_digest
from keep_protocol.states import Backend, KeepRole, WorkloadState
from tests.unit.app_loader.attesting import DOMAIN, KEEP_ID, attested_spec, evidence_maker, private_key_of
from tests.unit.app_loader.pki import self_signed
from tests.unit.keep_client.certificates import Pair

PATIENCE = 20.0

_CHALLENGE = re.compile(
    rb"POST /v1/attestation HTTP/1\.1\r\nHost: keep\r\nContent-Type: application/json\r\nContent-Length: 56\r\n\r\n"
    rb'\{"nonce":"([A-Za-z0-9+/]{43}=)"\}'
)
CHALLENGE_SIZE = 153
"""Bytes of every challenge, whoever asks whom."""


def tls_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """A TLS key in PEM, for pyOpenSSL."""
    key = load_pem_private_key(pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def nonce_of(application: bytes) -> bytes:
    """The nonce, if `application` is one challenge and not a byte more."""
    match = _CHALLENGE.fullmatch(application)
    assert match is not None, application
    assert len(application) == CHALLENGE_SIZE
    return base64.b64decode(match[1])


@functools.cache
def development_policy() -> Policy:
    """Accepts simulated evidence of the code that tests run."""
    return parse_policy(f'name = "development"\n[simulated]\nmeasurements = ["{measure_code().hex()}"]\n')


def peer_for(
    spec: KeepSpec, *, keep: str = KEEP_ID, policy: Policy | None = None, workload: bytes | None = None
) -> AttestedPeer:
    """Accepts the keep with this spec, this id and, if it is given, the workload of this SHA-256."""
    digest = bytes.fromhex(spec_digest(canonical(spec)))
    expected = ExpectedKeep(keep=keep, spec_sha256=digest, workload_sha256=workload)
    return AttestedPeer(policy or development_policy(), expected)


class Challenge(NamedTuple):
    """What a keep was asked, and the connection that it was asked on."""

    nonce: bytes
    exporter: bytes
    """What this end exports for the nonce."""


@dataclass
class Seen:
    """All that one connection let the keep see."""

    application: bytes = b""
    certificate: bytes | None = None
    """The client's, even if the handshake failed after it."""
    error: str | None = None
    """Why the handshake failed."""


Answer = Callable[[Challenge], bytes]


class Proof:
    """What makes a keep's proofs: its spec, its key, its evidence."""

    def __init__(
        self,
        *,
        spec: KeepSpec | None = None,
        attester: Attester | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.spec = spec or attested_spec([self_signed().pinned()])
        self.maker = evidence_maker(self.spec, attester=attester, clock=clock)
        self.identity = Identity(KEEP_ID, DOMAIN, ("127.0.0.1",), evidence=self.maker.collection, clock=clock)

    def collection(self, challenge: Challenge, *, workload_sha256: bytes | None = None) -> bytes:
        """The right answer."""
        return self.maker.collection(
            self.identity.spki, nonce=challenge.nonce, exporter=challenge.exporter, workload_sha256=workload_sha256
        )


def ok(body: bytes, *, media_type: str = CMW_MEDIA_TYPE) -> bytes:
    """A whole response."""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {media_type}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


STATUS = KeepStatus(
    id=KEEP_ID,
    version="0",
    backend=Backend.PROCESS,
    spec_digest="0" * 64,
    invocation="f" * 32,
    started_at="2026-01-01T00:00:00Z",
    workload=WorkloadInfo(state=WorkloadState.EMPTY),
    runs_active=0,
    runs_queued=0,
    files_used=0,
    you=(KeepRole.OWNER,),
)


class ScriptedKeep:
    """A TLS server that holds `identity`'s key and answers challenges with whatever bytes `answer` makes.

    Later requests get a status. `issued` replaces the identity by a pair and the CA (PEM) that has issued it.
    """

    def __init__(self, identity: Identity, answer: Answer, *, issued: tuple[Pair, str] | None = None) -> None:
        self._answer = answer
        self.seen: list[Seen] = []
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        if issued is None:
            context.use_privatekey(tls_key(private_key_of(identity)))
            context.use_certificate(x509.load_pem_x509_certificate(identity.certificate.encode()))
        else:
            pair, authority = issued
            context.use_privatekey(pair.key)
            context.use_certificate(x509.load_pem_x509_certificate(pair.certificate.encode()))
            context.add_extra_chain_cert(x509.load_pem_x509_certificate(authority.encode()))
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _note_certificate)
        self._context = context

    def __enter__(self) -> ScriptedKeep:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join()
        for connection in self._sockets:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def finished(self) -> list[Seen]:
        """What all connections let the keep see, once the client has closed them."""
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "the client keeps a connection open"
        return self.seen

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(connection)
            seen = Seen()
            self.seen.append(seen)
            thread = threading.Thread(target=self._serve, args=(connection, seen))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket, seen: Seen) -> None:
        tls = SSL.Connection(self._context, connection)
        tls.set_app_data(seen)
        tls.set_accept_state()
        try:
            with connection:
                tls.do_handshake()
                self._converse(tls, seen)
        except (SSL.Error, OSError) as error:
            seen.error = str(error)

    def _converse(self, tls: SSL.Connection, seen: Seen) -> None:
        while len(seen.application) < CHALLENGE_SIZE:
            seen.application += tls.recv(65536)
        nonce = nonce_of(seen.application)
        tls.sendall(self._answer(Challenge(nonce, tls.export_keying_material(EXPORTER_LABEL, EXPORTER_SIZE, nonce))))
        while True:
            seen.application += tls.recv(65536)
            if seen.application.endswith(b"\r\n\r\n"):
                tls.sendall(self._respond())

    def _respond(self) -> bytes:
        """The answer to every request after the challenge."""
        return ok(msgspec.json.encode(STATUS), media_type="application/json")


def _note_certificate(tls: SSL.Connection, certificate: crypto.X509, code: int, depth: int, ok: int) -> bool:
    seen = tls.get_app_data()
    assert isinstance(seen, Seen)
    seen.certificate = crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)
    return True


Ask = Callable[[str, AttestedPeer, Credentials], KeepStatus]


def ask_sync(endpoint: str, peer: AttestedPeer, credentials: Credentials) -> KeepStatus:
    with KeepClient(endpoint, peer, credentials=credentials) as keep:
        return keep.status()


def ask_async(endpoint: str, peer: AttestedPeer, credentials: Credentials) -> KeepStatus:
    async def ask() -> KeepStatus:
        async with AsyncKeepClient(endpoint, peer, credentials=credentials) as keep:
            return await keep.status()

    return asyncio.run(ask())
