"""The TLS side: who may shake hands, which alert a refused client gets, and how trust changes without a restart."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Callable
from contextvars import ContextVar

from app_loader.identity import Identity
from app_loader.principals import Principals


class Attempt:
    """A connection whose handshake is going on, for the log and for closing it after an alert."""

    current: ContextVar[Attempt] = ContextVar("attempt")

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.refusal: str | None = None

    def refuse(self, error: ssl.SSLError) -> None:
        """Remember why, and end our direction once asyncio has written the alert, so that the client leaves."""
        self.refusal = getattr(error, "verify_message", None) or error.reason or str(error)
        asyncio.get_running_loop().call_soon(self._shut_down, socket.SHUT_WR)

    def abandon(self) -> None:
        """Make the handshake fail, whichever state it is in."""
        self._shut_down(socket.SHUT_RDWR)

    def _shut_down(self, how: int) -> None:
        # The client may have been faster.
        with contextlib.suppress(OSError):
            self._connection.shutdown(how)


class _ReportingObject(ssl.SSLObject):
    """Lets asyncio send the TLS alert that it would drop when a handshake fails (CPython gh-98078)."""

    _error: ssl.SSLError | None = None

    def do_handshake(self) -> None:
        if self._error is not None:
            raise self._error
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            self._error = error
            Attempt.current.get().refuse(error)
            # asyncio flushes what OpenSSL has to say only when OpenSSL wants more.
            raise ssl.SSLWantReadError from None


class _ListeningContext(ssl.SSLContext):
    """Moves every handshake to the newest context.

    OpenSSL takes certificate, trust store and ALPN from the context swapped in, but verify mode and
    flags, versions and tickets from the one that is listening: both are set up alike.
    """

    sslobject_class = _ReportingObject

    def __new__(cls) -> _ListeningContext:
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(self) -> None:
        self._newest: Callable[[], ssl.SSLContext] = lambda: self

    def follow(self, newest: Callable[[], ssl.SSLContext]) -> None:
        self._newest = newest
        # Called for clients without SNI too.
        self.sni_callback = self._swap

    def _swap(self, connection: ssl.SSLSocket | ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = self._newest()


class Trust:
    """The contexts of one keep: rebuilt when its certificate or the host's revocation lists change."""

    def __init__(self, identity: Identity, principals: Principals | None) -> None:
        """`principals` None: clients are not asked for a certificate."""
        self._identity = identity
        self._principals = principals
        self._built_from: tuple[str, int] | None = None
        self._newest: ssl.SSLContext
        self.listening = _ListeningContext()
        self._set_up(self.listening)
        self.current()
        self.listening.follow(self.current)

    def current(self) -> ssl.SSLContext:
        """The context for a handshake that begins now."""
        principals = self._principals
        needs_list = principals is not None and principals.all_need_list
        generation = principals.revocations.refresh() if principals is not None and needs_list else 0
        built_from = (self._identity.certificate, generation)
        if built_from != self._built_from:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._set_up(context)
            self._identity.load_into(context)
            if principals is not None:
                context.load_verify_locations(cadata=principals.anchors)
            if principals is not None and needs_list:
                _load_lists(context, principals.usable_lists())
            self._newest = context
            self._built_from = built_from
        return self._newest

    def _set_up(self, context: ssl.SSLContext) -> None:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0  # a resumed session would skip changes of trust and lists
        context.set_alpn_protocols(["http/1.1"])
        if self._principals is None:
            context.verify_mode = ssl.CERT_NONE
            return
        context.verify_mode = ssl.CERT_REQUIRED
        # PARTIAL_CHAIN: a certificate of the spec is an anchor, whether it is self-signed or not.
        flags = ssl.VERIFY_X509_PARTIAL_CHAIN
        if not self._principals.pins:
            # What `openssl req -x509` makes is pinned often and not strictly to RFC 5280. Certificates
            # under a CA are held to it in any case, by `verify_client`.
            flags |= ssl.VERIFY_X509_STRICT
        if self._principals.all_need_list:
            flags |= ssl.VERIFY_CRL_CHECK_LEAF
        context.verify_flags |= flags


def _load_lists(context: ssl.SSLContext, pem: bytes) -> None:
    """Put revocation lists into a trust store. Without one OpenSSL refuses everybody, as it should."""
    if not pem:
        return
    # Python's ssl reads lists from a path only (`cadata` takes certificates).
    descriptor = os.memfd_create("revocations", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(pem)
        context.load_verify_locations(cafile=f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
