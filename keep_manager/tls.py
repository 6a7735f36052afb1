"""Mutual TLS 1.3 with trust that can change while listening, and alerts that reach refused clients."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from keep_manager.errors import ConfigurationError
from keep_manager.listener import Accepted
from keep_manager.pki import PkiPaths, key_of


def server_context(paths: PkiPaths) -> ssl.SSLContext:
    """A context for the manager's certificate, its client CA and the revocation list as they are on disk now.

    Raises `ConfigurationError`. The list is required: without it, or with an expired one, OpenSSL refuses everybody.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_CRL_CHECK_LEAF
    try:
        context.load_cert_chain(paths.server, key_of(paths.server))
        context.load_verify_locations(paths.client_ca)
        # From a file: `cadata` takes no revocation lists.
        context.load_verify_locations(paths.client_crl)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"the certificates in {paths.folder} cannot be used for TLS: {error}") from None
    return context


class _ReportingObject(ssl.SSLObject):
    """Lets asyncio send the alert of a refused handshake, and logs the reason.

    asyncio drops the bytes that OpenSSL has ready when a handshake fails (gh-98078). If we ask for more input
    instead, it sends them, and the next time round the handshake fails for good.
    """

    _refusal: ssl.SSLError | None = None

    def do_handshake(self) -> None:
        if self._refusal is not None:
            raise self._refusal
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            self._refusal = error
            if (connection := Accepted.current.get(None)) is not None:
                connection.refused(getattr(error, "verify_message", None) or error.reason or str(error))
                # Once asyncio has written the alert.
                asyncio.get_running_loop().call_soon(connection.end_our_direction)
            raise ssl.SSLWantReadError from None


class ReloadingContext(ssl.SSLContext):
    """A listening context that hands every handshake over to the newest context of `build`.

    OpenSSL takes certificate and trust store (CAs, CRLs) from the context that is put in place by the SNI
    callback, which is called without SNI too; verify mode and flags, versions, ALPN and tickets stay those of the
    context that listens.
    """

    sslobject_class = _ReportingObject
    _build: Callable[[], ssl.SSLContext]
    _current: ssl.SSLContext

    def __new__(cls, build: Callable[[], ssl.SSLContext]) -> ReloadingContext:
        self = super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)
        self.minimum_version = ssl.TLSVersion.TLSv1_3
        self.set_alpn_protocols(["http/1.1"])
        # A resumed session would pass by every change of trust.
        self.num_tickets = 0
        self._build = build
        self.reload()
        self.sni_callback = self._put_in_place
        return self

    def __init__(self, build: Callable[[], ssl.SSLContext]) -> None:
        """All is done by `__new__`, which is where `ssl.SSLContext` makes its object."""

    def reload(self) -> None:
        """Build and use a new context. Raises what `build` raises, and changes nothing then."""
        fresh = self._build()
        self.verify_mode = fresh.verify_mode
        self.verify_flags = fresh.verify_flags
        self._current = fresh

    def _put_in_place(
        self, connection: ssl.SSLSocket | ssl.SSLObject, name: str | None, context: ssl.SSLContext
    ) -> None:
        connection.context = self._current
