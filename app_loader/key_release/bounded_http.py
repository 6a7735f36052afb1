"""HTTP/1.1 to key services: one request a connection, replies of bounded size, no redirects, one kind of error."""

from __future__ import annotations

import asyncio
import binascii
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import h11

from app_loader.errors import AppLoaderError
from app_loader.key_release.connector import Connector
from app_loader.key_release.errors import KeyServiceError
from keep_protocol.secret_requests import Address

MAX_REPLY_SIZE: Final = 1024 * 1024
MAX_HEAD: Final = 32 * 1024
MAX_HEADERS: Final = 100

_CHUNK: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply, whatever its status."""

    status: int
    content: bytes
    headers: tuple[tuple[str, str], ...] = ()
    """Names in lower case, in the order in which they came."""


def trust_of(roots: Sequence[str] | None) -> ssl.SSLContext:
    """TLS that trusts these certificates (DER in base64) and no others, or the system's where there are none given.

    Raises `KeyServiceError`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if roots is not None:
            context.load_verify_locations(cadata=b"".join(map(binascii.a2b_base64, roots)))
        else:
            _load_system_roots(context)
    except (ssl.SSLError, binascii.Error) as error:
        raise KeyServiceError(f"the roots for this service cannot be used: {error}") from None
    return context


def _load_system_roots(context: ssl.SSLContext) -> None:
    # Not load_default_certs: by SSL_CERT_FILE in the environment somebody else could choose whom a keep trusts.
    paths = ssl.get_default_verify_paths()
    cafile = paths.openssl_cafile if Path(paths.openssl_cafile).is_file() else None
    capath = paths.openssl_capath if Path(paths.openssl_capath).is_dir() else None
    if cafile is None and capath is None:
        raise KeyServiceError(
            f"the system has no root certificates at {paths.openssl_cafile} and {paths.openssl_capath}: name `roots`"
        )
    context.load_verify_locations(cafile, capath)


class HttpService:
    """One service at one address."""

    def __init__(self, connector: Connector, address: Address, trust: ssl.SSLContext | None) -> None:
        """Without `trust` the requests are plain HTTP: for nothing but what knows no other."""
        self._connector = connector
        self._address = address
        self._trust = trust
        self.url = f"{'http' if trust is None else 'https'}://{address.authority}{address.path}"

    async def exchange(
        self, method: str, path: str, *, content: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Reply:
        """The reply to one request, whatever its status; `path` is below the service's. Raises `KeyServiceError`.

        It takes as long as the service does: put a limit on the time around it.
        """
        try:
            reader, writer = await self._open(method)
            try:
                return await self._ask(reader, writer, method, path, content, headers or {})
            finally:
                writer.transport.abort()
        except ssl.SSLCertVerificationError as error:
            raise KeyServiceError(f"{self.url} is not who it should be: {error.verify_message}") from None
        except (OSError, h11.ProtocolError) as error:
            raise KeyServiceError(f"{self.url} cannot be used: {_reason(error)}") from None

    async def _open(self, method: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = self._address.host, self._address.port
        try:
            connected = await self._connector.connect(host, port, method=method)
        except AppLoaderError as error:
            raise KeyServiceError(f"{self.url} cannot be reached: {error}") from None
        try:
            return await asyncio.open_connection(
                sock=connected, ssl=self._trust, server_hostname=None if self._trust is None else host
            )
        except BaseException:
            connected.close()
            raise

    async def _ask(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        method: str,
        path: str,
        content: bytes,
        headers: Mapping[str, str],
    ) -> Reply:
        http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        sent = [("Host", self._address.authority), ("Connection", "close"), *headers.items()]
        if content or method != "GET":
            sent.append(("Content-Length", str(len(content))))
        events = (h11.Request(method=method, target=self._address.path + path, headers=sent), h11.Data(data=content))
        for event in (*events, h11.EndOfMessage()):
            if octets := http.send(event):
                writer.write(octets)
        await writer.drain()
        head: h11.Response | None = None
        received = bytearray()
        while True:
            match http.next_event():
                case h11.NEED_DATA:
                    http.receive_data(await reader.read(_CHUNK))
                case h11.Response() as head if len(head.headers) > MAX_HEADERS:
                    raise KeyServiceError(f"{self.url} replied with more than {MAX_HEADERS} headers")
                case h11.Data(data=chunk):
                    received += chunk
                    if len(received) > MAX_REPLY_SIZE:
                        raise KeyServiceError(f"{self.url} replied with more than {MAX_REPLY_SIZE} bytes")
                case h11.EndOfMessage() if head is not None:
                    named = tuple((name.decode("ascii"), value.decode("latin-1")) for name, value in head.headers)
                    return Reply(head.status_code, bytes(received), named)


def _reason(error: Exception) -> str:
    # What h11 says of a reply quotes it: that is the service's text, and stays out of errors.
    if isinstance(error, h11.ProtocolError):
        return "its reply is no HTTP/1.1, or is cut short"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or type(error).__name__}"
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
