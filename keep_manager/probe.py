"""Looks who answers at an endpoint: the TLS handshake proves the key, no request is made."""

from __future__ import annotations

import asyncio
import ssl

from keep_manager.endpoints import split_endpoint
from keep_manager.errors import ProbeError
from keep_manager.keep_file import spki_digest_of

DEADLINE = 5.0


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    # Keeps are self-signed. OpenSSL still checks that the peer has the key; which key, we compare.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


_CONTEXT = _context()


async def endpoint_certificate(endpoint: str, deadline: float = DEADLINE) -> bytes:
    """The certificate (DER) of who answers at `ADDRESS:PORT`, and has its key. Raises `ProbeError`.

    We show no certificate, so the keep refuses us after its own flight: the handshake is over for us by then.
    """
    host, port = split_endpoint(endpoint)
    try:
        async with asyncio.timeout(deadline):
            _, writer = await asyncio.open_connection(host, port, ssl=_CONTEXT)
    except (OSError, TimeoutError) as error:
        raise ProbeError(f"{endpoint} does not answer in TLS: {str(error) or type(error).__name__}") from None
    try:
        tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
        certificate = tls.getpeercert(binary_form=True)
        if certificate is None:
            raise ProbeError(f"{endpoint} showed no certificate")
        return certificate
    finally:
        writer.transport.abort()


async def endpoint_key(endpoint: str, deadline: float = DEADLINE) -> str:
    """SHA-256 of the SubjectPublicKeyInfo that answers at `ADDRESS:PORT`. Raises `ProbeError`."""
    try:
        return spki_digest_of(await endpoint_certificate(endpoint, deadline))
    except ValueError as error:
        raise ProbeError(f"the certificate at {endpoint} is unusable: {error}") from None


async def check_endpoint(endpoint: str, spki_sha256: str) -> None:
    """Raises `ProbeError` unless the key with this digest answers at the endpoint."""
    if (found := await endpoint_key(endpoint)) != spki_sha256:
        raise ProbeError(f"another key answers at {endpoint}: {found}, and the keep published {spki_sha256}")
