"""HTTP to key services: replies of bounded size, no redirects, no proxies from the environment, one kind of error."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from keep_attestation.key_release.errors import KeyServiceError

MAX_REPLY_SIZE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply."""

    status: int
    content: bytes


def new_client(trust: ssl.SSLContext | None, timeout: float) -> httpx.Client:
    """A client that trusts what `trust` does, or else the public CAs; `timeout` in seconds per step of a request."""
    # trust_env: HTTPS_PROXY or SSL_CERT_FILE from the host must not redirect a keep's requests for keys.
    return httpx.Client(verify=True if trust is None else trust, timeout=timeout, trust_env=False)


def exchange(
    client: httpx.Client, method: str, url: str, *, content: bytes | None = None, headers: Mapping[str, str] = {}
) -> Reply:
    """The reply to one request, whatever its status. Raises `KeyServiceError`."""
    try:
        with client.stream(method, url, content=content, headers=headers) as response:
            received = bytearray()
            for chunk in response.iter_bytes():
                received += chunk
                if len(received) > MAX_REPLY_SIZE:
                    raise KeyServiceError(f"{url} replied with more than {MAX_REPLY_SIZE} bytes")
            return Reply(response.status_code, bytes(received))
    except (httpx.HTTPError, httpx.InvalidURL, httpx.CookieConflict) as error:
        raise KeyServiceError(f"{url} cannot be used: {error or type(error).__name__}") from None
