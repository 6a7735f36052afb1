"""The default `Fetch`: HTTPS to named hosts only, bounded in time and size."""

from __future__ import annotations

import ssl
import time
from collections.abc import Collection
from urllib.parse import urlsplit

import httpx

from keep_attestation.endorsement_sources.interface import EndorsementNotFoundError, Fetched
from keep_attestation.errors import EndorsementsError

MANUFACTURER_HOSTS = frozenset(
    {"kdsintf.amd.com", "api.trustedservices.intel.com", "certificates.trustedservices.intel.com"}
)


class HttpsFetch:
    """GETs over HTTPS with the server's certificate verified; follows no redirects, ignores proxies of the environment.

    `hosts` may be asked, `host` or `host:port`. `timeout` is seconds for the whole answer, `max_size` bytes of it.
    `context` replaces the system's trusted CAs.
    """

    def __init__(
        self,
        *,
        hosts: Collection[str] = MANUFACTURER_HOSTS,
        timeout: float = 20.0,
        max_size: int = 4 * 1024 * 1024,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._hosts = frozenset(hosts)
        self._timeout = timeout
        self._max_size = max_size
        self._context = context

    def __call__(self, url: str) -> Fetched:
        parts = urlsplit(url)
        if parts.scheme != "https" or parts.netloc not in self._hosts:
            raise EndorsementsError(f"{url} is not asked: only https to {', '.join(sorted(self._hosts))} is")
        try:
            with (
                httpx.Client(
                    verify=self._context or ssl.create_default_context(),
                    timeout=self._timeout,
                    follow_redirects=False,
                    trust_env=False,
                ) as client,
                client.stream("GET", url) as response,
            ):
                if response.status_code == 404:
                    raise EndorsementNotFoundError(f"{parts.netloc} has nothing at {parts.path}")
                if response.status_code != 200:
                    retry = response.headers.get("retry-after")
                    advice = f"; try again in {retry[:32]} s" if retry else ""
                    raise EndorsementsError(f"{parts.netloc} answered {response.status_code} to {parts.path}{advice}")
                return Fetched(self._read(response), {k.lower(): v for k, v in response.headers.items()})
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise EndorsementsError(f"{parts.netloc} cannot be asked: {error or type(error).__name__}") from None

    def _read(self, response: httpx.Response) -> bytes:
        # httpx bounds each read alone: a server that drips bytes would hold the caller for ever.
        deadline = time.monotonic() + self._timeout
        body = bytearray()
        for piece in response.iter_bytes():
            body += piece
            if len(body) > self._max_size:
                raise EndorsementsError(f"{response.url.host} answers with more than {self._max_size} bytes")
            if time.monotonic() > deadline:
                raise EndorsementsError(f"{response.url.host} did not finish its answer in {self._timeout} s")
        return bytes(body)
