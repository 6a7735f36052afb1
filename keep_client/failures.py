"""Exceptions of httpx, httpcore, anyio and ssl, told in our own words."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import httpx

from keep_client.errors import (
    ConnectionBrokenError,
    ConnectionFailedError,
    IdentityRefusedError,
    InvalidArgumentError,
    KeepClientError,
    PeerRefusedError,
    ProtocolError,
)

TRANSPORT_ERRORS = (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError)
"""What comes out of httpx when an exchange fails."""

_IDENTITY_ALERTS = (
    "CERTIFICATE_REQUIRED",
    "CERTIFICATE_REVOKED",
    "CERTIFICATE_EXPIRED",
    "CERTIFICATE_UNKNOWN",
    "BAD_CERTIFICATE",
    "UNSUPPORTED_CERTIFICATE",
    "UNKNOWN_CA",
    "ACCESS_DENIED",
)
_CUT_OFF = ("Server disconnected", "peer closed connection")
"""How h11 and httpcore begin the message when a peer hangs up; their other protocol errors mean garbage."""


def translated(error: Exception, peer: str) -> KeepClientError:
    """What `error` means for the caller. `peer` is how messages name the other side."""
    chain = tuple(_causes(error))
    for cause in chain:
        if isinstance(cause, PeerRefusedError):
            # A new object: raising the one inside the chain from its own effect would tie a knot.
            return type(cause)(*cause.args)
    for cause in chain:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return PeerRefusedError(f"the certificate of {peer} is refused: {cause.verify_message or cause.args[-1]}")
        if isinstance(cause, ssl.SSLError) and (alert := _identity_alert(cause)):
            return IdentityRefusedError(f"{peer} refused our certificate: {alert}")
    return _without_tls(error, peer)


def _without_tls(error: Exception, peer: str) -> KeepClientError:
    match error:
        case httpx.TimeoutException():
            return ConnectionFailedError(f"{peer} does not answer in time")
        case httpx.RemoteProtocolError() if not str(error).startswith(_CUT_OFF):
            return ProtocolError(f"{peer} does not speak HTTP as it should: {error}")
        case httpx.RemoteProtocolError() | httpx.ReadError() | httpx.WriteError() | httpx.CloseError():
            return ConnectionBrokenError(f"{peer} ended the connection{_reason(error)}")
        case httpx.LocalProtocolError() | httpx.InvalidURL() | httpx.UnsupportedProtocol():
            return InvalidArgumentError(f"this cannot be sent to {peer}{_reason(error)}")
        case _:
            return ConnectionFailedError(f"{peer} cannot be reached{_reason(error)}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _identity_alert(error: ssl.SSLError) -> str | None:
    # OpenSSL's reason is like TLSV13_ALERT_CERTIFICATE_REQUIRED.
    _, separator, alert = (error.reason or "").partition("_ALERT_")
    return alert.replace("_", " ").lower() if separator and alert in _IDENTITY_ALERTS else None


def _reason(error: Exception) -> str:
    return f": {error}" if str(error) else ""
