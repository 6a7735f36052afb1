"""TLS contexts: one that asks a CA (for managers), one that compares with a pin (for keeps).

The second verifies inside the handshake, so that no byte of a request leaves before the peer is accepted.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

from keep_client.credentials import Credentials
from keep_client.errors import InvalidArgumentError, PeerRefusedError
from keep_client.pins import KeepPin, check_certificate

CheckPeer = Callable[[bytes], None]
"""Gets the peer's certificate (DER); raises `PeerRefusedError`."""


def manager_context(ca: Path, credentials: Credentials) -> ssl.SSLContext:
    """For a server whose name or address `ca` (PEM) certifies. Raises `InvalidArgumentError`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    try:
        context.load_verify_locations(cafile=ca)
    except (ssl.SSLError, OSError) as error:
        raise InvalidArgumentError(f"the CA {ca} cannot be used: {error}") from error
    credentials.load_into(context)
    return context


def keep_context(pin: KeepPin, credentials: Credentials) -> ssl.SSLContext:
    """For the keep that `pin` describes and for no other peer."""
    context = VerifyingContext(ssl.PROTOCOL_TLS_CLIENT)
    # Keeps sign their own certificates: the pin says who the peer is, not a CA or a name.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_peer = lambda der: check_certificate(pin, der)
    credentials.load_into(context)
    return context


def _refuse_everybody(der: bytes) -> None:
    raise PeerRefusedError("no check was set for this peer")


def _check(connection: ssl.SSLSocket | ssl.SSLObject) -> None:
    context = connection.context
    if not isinstance(context, VerifyingContext):
        raise ssl.SSLCertVerificationError(1, "the TLS context was exchanged during the handshake")
    der = connection.getpeercert(binary_form=True)
    # On a resumed session getpeercert() returns the old certificate without fresh proof of the key.
    if der is None or connection.session_reused:
        raise ssl.SSLCertVerificationError(1, "the peer presented no certificate in this handshake")
    try:
        context.check_peer(der)
    except PeerRefusedError as refusal:
        # Only an OSError makes every library above close the socket.
        raise ssl.SSLCertVerificationError(1, str(refusal)) from refusal


class _VerifyingSocket(ssl.SSLSocket):
    def do_handshake(self, block: bool = False) -> None:
        super().do_handshake(block)
        _check(self)


class _VerifyingObject(ssl.SSLObject):
    def do_handshake(self) -> None:
        super().do_handshake()
        _check(self)


class VerifyingContext(ssl.SSLContext):
    """A context whose connections call `check_peer` as the last step of their handshake."""

    sslsocket_class = _VerifyingSocket
    sslobject_class = _VerifyingObject
    check_peer: CheckPeer = staticmethod(_refuse_everybody)
