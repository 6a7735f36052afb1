"""TLS to a keep that proves itself: its evidence decides in the handshake, and once more before the first request.

No I/O here: `AttestedTls` is given what arrives and says what to send. It is pyOpenSSL's, because Python's `ssl` has no
TLS exporter, which is what binds evidence to one connection (CVE-2026-33697).
"""

from __future__ import annotations

import base64
import os
import ssl
from collections.abc import Generator
from contextlib import suppress
from typing import Final

import h11
from OpenSSL import SSL, crypto

from keep_client.attested_peer import AttestedPeer
from keep_client.credentials import Credentials
from keep_client.errors import InvalidArgumentError, PeerRefusedError
from keep_protocol.evidence import EXPORTER_LABEL, EXPORTER_SIZE, NONCE_SIZE
from keep_protocol.keep_api import CMW_MEDIA_TYPE

MAX_COLLECTION: Final = 2 * 1024 * 1024
"""Bytes of an answer to the challenge that are read; an SNP report with its chain has 8 KiB, a log adds hundreds."""
_RECORD: Final = 16 * 1024
_REQUEST: Final = (
    b"POST /v1/attestation HTTP/1.1\r\nHost: keep\r\nContent-Type: application/json\r\nContent-Length: 56\r\n\r\n"
    b'{"nonce":"%s"}'
)


def attestation_request(nonce: bytes) -> bytes:
    """All that an unproven peer ever gets: the same size for everybody, and nothing in it but the nonce."""
    return _REQUEST % base64.b64encode(nonce)


def attested_context(peer: AttestedPeer, credentials: Credentials) -> SSL.Context:
    """A context whose handshakes ask `peer` about the certificate. Raises `InvalidArgumentError`."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    # A resumed session would bring the old certificate without fresh proof of its key.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(SSL.OP_NO_TICKET)
    context.set_alpn_protos([b"http/1.1"])
    try:
        context.use_certificate_chain_file(os.fspath(credentials.certificate))
        context.use_privatekey_file(os.fspath(credentials.key))
        context.check_privatekey()
    except (SSL.Error, OSError) as error:
        raise InvalidArgumentError(
            f"the certificate {credentials.certificate} and the key {credentials.key} cannot be used together: {error}"
        ) from error

    def accept(connection: SSL.Connection, certificate: crypto.X509, code: int, depth: int, ok: int) -> bool:
        # OpenSSL asks before our certificate and Finished have left, so a refused peer never learns who we are.
        # That a keep's certificate is self-signed is no fault: evidence, not a CA, says who it is.
        tls = connection.get_app_data()
        assert isinstance(tls, AttestedTls)
        if depth != 0:
            tls.refuse(PeerRefusedError("the peer shows a certificate that a CA has issued: a keep makes its own"))
            return False
        return tls.accepts(crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate))

    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, accept)
    return context


class AttestedTls:
    """One connection. Feed `establish` until it ends; then `read` and `write`."""

    def __init__(self, context: SSL.Context, peer: AttestedPeer) -> None:
        self._peer = peer
        self._connection = SSL.Connection(context, None)
        self._connection.set_app_data(self)
        self._connection.set_connect_state()
        self._accepted: bytes | None = None
        self._refusal: Exception | None = None

    def accepts(self, der: bytes) -> bool:
        """Phase one: whether the evidence in this certificate is accepted. OpenSSL may ask more than once."""
        if self._refusal is not None:
            return False
        if self._accepted != der:
            try:
                self._peer.check_certificate(der)
            except Exception as failure:
                # pyOpenSSL would raise it from whichever connection of the context fails next.
                self.refuse(failure)
                return False
            self._accepted = der
        return True

    def refuse(self, reason: Exception) -> None:
        """What `establish` raises when the handshake has failed."""
        self._refusal = reason

    def establish(self) -> Generator[bytes, bytes, None]:
        """Yields what to send; is sent what then arrives. Returns when the peer may be spoken to.

        Raises `PeerRefusedError`, `ssl.SSLError` for what TLS itself refuses, or what the peer's check raised.
        """
        while True:
            try:
                self._connection.do_handshake()
                break
            except SSL.WantReadError:
                self.feed((yield self.outgoing()))
            except SSL.Error as error:
                if self._refusal is not None:
                    raise self._refusal from None
                raise translated(error) from None
        certificate = self._connection.get_peer_certificate()
        if certificate is None or crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate) != self._accepted:
            raise PeerRefusedError("the peer presented no certificate that was accepted in this handshake")
        yield from self._challenge(self._accepted)

    def _challenge(self, certificate: bytes) -> Generator[bytes, bytes, None]:
        """Phase two: evidence for a nonce of ours and this very connection, before anything else is said."""
        nonce = os.urandom(NONCE_SIZE)
        exporter = self._connection.export_keying_material(EXPORTER_LABEL, EXPORTER_SIZE, nonce)
        self.write(attestation_request(nonce))
        http = h11.Connection(h11.CLIENT)
        http.send(
            h11.Request(method="POST", target="/v1/attestation", headers=[("Host", "keep"), ("Content-Length", "0")])
        )
        http.send(h11.EndOfMessage())
        collection = bytearray()
        while True:
            try:
                event = http.next_event()
            except h11.RemoteProtocolError as error:
                raise PeerRefusedError(f"the peer answers the challenge with no HTTP: {error}") from None
            if event is h11.NEED_DATA:
                while (piece := self.read(_RECORD)) is None:
                    self.feed((yield self.outgoing()))
                http.receive_data(piece)
            elif isinstance(event, h11.Response):
                self._check_head(event)
            elif isinstance(event, h11.Data):
                collection += event.data
                if len(collection) > MAX_COLLECTION:
                    raise PeerRefusedError(f"the peer answers the challenge with more than {MAX_COLLECTION} bytes")
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                raise PeerRefusedError("the peer closed the connection instead of proving itself")
        if http.trailing_data[0]:
            raise PeerRefusedError("the peer sends more than it was asked for")
        self._peer.check_fresh(bytes(collection), certificate, nonce=nonce, exporter=exporter)

    def _check_head(self, head: h11.Response) -> None:
        fields = dict(head.headers)
        if head.status_code != 200 or fields.get(b"content-type") != CMW_MEDIA_TYPE.encode():
            raise PeerRefusedError(
                f"the peer does not prove itself: it answers the challenge with status {head.status_code}"
            )

    def feed(self, data: bytes) -> None:
        """What has arrived; nothing means that the peer has gone."""
        if data:
            self._connection.bio_write(data)
        else:
            self._connection.bio_shutdown()

    def outgoing(self) -> bytes:
        """What is to be sent now."""
        pieces = []
        with suppress(SSL.WantReadError):
            while True:
                pieces.append(self._connection.bio_read(_RECORD))
        return b"".join(pieces)

    def read(self, size: int) -> bytes | None:
        """At most `size` bytes; None when more has to arrive first, b"" at the end. Raises `ssl.SSLError`."""
        try:
            return self._connection.recv(size)
        except SSL.WantReadError:
            return None
        except SSL.ZeroReturnError:
            return b""
        except SSL.Error as error:
            raise translated(error) from None

    def write(self, data: bytes) -> None:
        """Encrypt; `outgoing` has it then. Raises `ssl.SSLError`."""
        try:
            view = memoryview(data)
            while view:
                view = view[self._connection.send(view[:_RECORD]) :]
        except SSL.Error as error:
            raise translated(error) from None


def translated(error: SSL.Error) -> ssl.SSLError:
    """pyOpenSSL's error as Python's: its reason in the form of `TLSV13_ALERT_CERTIFICATE_REQUIRED`."""
    queue = error.args[0] if error.args and isinstance(error.args[0], list) else []
    # Without I/O of its own, what pyOpenSSL calls an error of the system is an end that TLS did not announce.
    cut_off = isinstance(error, SSL.SysCallError)
    reason = str(queue[-1][-1]) if queue else "the connection was cut off" if cut_off else str(error) or "no reason"
    told = ssl.SSLError(1, reason)
    told.reason = reason.upper().replace(" ", "_")
    return told
