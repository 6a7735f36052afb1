"""What TLS of a workload's sockets trusts and shows: the keep's certificate, own roots, identities from secrets."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Awaitable, Callable

from app_loader.errors import AppLoaderError
from app_loader.identity import Identity
from app_loader.run_sockets import HandOver
from app_loader.secret_store import SecretStore
from app_loader.tls_relay import TlsRelay
from keep_protocol.errors import RefusalError
from keep_protocol.workload_configuration import ClientCertificates, ConnectIdentity, ConnectTls, ListenTls

_VERIFY = {
    ClientCertificates.NONE: ssl.CERT_NONE,
    ClientCertificates.OPTIONAL: ssl.CERT_OPTIONAL,
    ClientCertificates.REQUIRED: ssl.CERT_REQUIRED,
}


class WorkloadTlsError(AppLoaderError):
    """A workload's socket cannot have the TLS that its configuration asks for, or its peer is not who it should be."""


class WorkloadTls:
    """Of one keep. TLS 1.3 only, as Enarx had it."""

    def __init__(self, identity: Identity, secrets: SecretStore, relay: TlsRelay) -> None:
        self._identity = identity
        self._secrets = secrets
        self._relay = relay

    def accepting(self, wanted: ListenTls | None) -> HandOver:
        """What does a listening socket's handshakes. Raises `WorkloadTlsError`."""
        settings = wanted or ListenTls()
        built: tuple[str, ssl.SSLContext] = ("", self._listening(settings))

        def hand_over(connection: socket.socket, done: Callable[[socket.socket | None], None]) -> None:
            nonlocal built
            if built[0] != self._identity.certificate:
                # The certificate is renewed twice a day, and sockets listen for longer.
                built = (self._identity.certificate, self._listening(settings))
            loop = asyncio.get_running_loop()

            def ready(guest: socket.socket | None, _reason: str | None) -> None:
                _tell(loop, lambda: done(guest), guest)

            self._relay.relay(connection, built[1], None, ready)

        return hand_over

    def connecting(self, host: str, wanted: ConnectTls | None) -> Callable[[socket.socket], Awaitable[socket.socket]]:
        """What does a connecting socket's handshake; it gives the guest's end. Raises `WorkloadTlsError`."""
        context = self._connecting(wanted or ConnectTls())

        async def shake_hands(connection: socket.socket) -> socket.socket:
            loop = asyncio.get_running_loop()
            over: asyncio.Future[tuple[socket.socket | None, str | None]] = loop.create_future()

            def ready(guest: socket.socket | None, reason: str | None) -> None:
                def tell() -> None:
                    if not over.done():
                        over.set_result((guest, reason))
                    elif guest is not None:
                        guest.close()

                _tell(loop, tell, guest)

            self._relay.relay(connection, context, host, ready)
            guest, reason = await over
            if guest is None:
                raise WorkloadTlsError(f"the TLS handshake failed: {reason}")
            return guest

        return shake_hands

    def _listening(self, settings: ListenTls) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0  # nothing resumes a session here, and a ticket would be the first thing a client reads
        self._identity.load_into(context)
        context.verify_mode = _VERIFY[settings.client_certificates]
        if settings.roots is not None:
            _trust(context, settings.roots)
        return context

    def _connecting(self, settings: ConnectTls) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if settings.roots is not None:
            _trust(context, settings.roots)
        else:
            context.load_default_certs()
            if not context.cert_store_stats()["x509_ca"]:
                raise WorkloadTlsError("there are no roots here that servers are trusted by: name them as `tls.roots`")
        if settings.identity is ConnectIdentity.KEEP:
            self._identity.load_into(context)
        elif settings.secret is not None:
            self._load_secret(context, settings.secret)
        return context

    def _load_secret(self, context: ssl.SSLContext, name: str) -> None:
        try:
            value = self._secrets.get(name)
        except RefusalError as error:
            raise WorkloadTlsError(error.detail) from None
        # Python's ssl reads certificates from a path only; this one is memory that no other process sees.
        descriptor = os.memfd_create("identity", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, value)
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        except (ssl.SSLError, OSError):
            # Not chained: it may quote the value.
            raise WorkloadTlsError(f"the secret {name!r} holds no certificate with its key in PEM") from None
        finally:
            os.pwrite(descriptor, bytes(os.fstat(descriptor).st_size), 0)
            os.close(descriptor)


def _trust(context: ssl.SSLContext, roots: str) -> None:
    try:
        context.load_verify_locations(cadata=roots)
    except (ssl.SSLError, ValueError) as error:
        raise WorkloadTlsError(f"`tls.roots` are no certificates in PEM: {error}") from None


def _tell(loop: asyncio.AbstractEventLoop, tell: Callable[[], None], guest: socket.socket | None) -> None:
    """From the relay's thread."""
    try:
        loop.call_soon_threadsafe(tell)
    except RuntimeError:  # the loop is closed: the keep is ending
        if guest is not None:
            guest.close()
