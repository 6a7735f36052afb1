"""From a request to its caller; refuses who is revoked, expired, or has no business at a route."""

from __future__ import annotations

from functools import lru_cache

from keep_manager.caller import Caller
from keep_manager.context import ManagerContext
from keep_manager.identity import Identity, identity_of
from keep_manager.pki import now
from keep_manager.route import Route
from keep_protocol.errors import ErrorCode, RefusalError

# A connection brings the same certificate with every request.
_cached_identity_of = lru_cache(maxsize=1024)(identity_of)


def authenticate(certificate: bytes | None, context: ManagerContext) -> Caller:
    """The caller behind a certificate that the handshake verified. Raises `RefusalError`.

    A connection may outlive a revocation or the certificate itself, so both are looked at again.
    """
    if certificate is None:
        raise RefusalError(ErrorCode.IDENTITY_INVALID, "this connection shows no client certificate")
    identity: Identity = _cached_identity_of(certificate, context.settings.domain)
    if identity.serial in context.trust.revoked:
        raise RefusalError(
            ErrorCode.CERTIFICATE_REVOKED,
            f"the certificate {identity.serial:x} of {identity.spiffe_id} is revoked",
            remedy="ask the operator for a new certificate",
        )
    if identity.expires <= now():
        raise RefusalError(
            ErrorCode.IDENTITY_INVALID,
            f"the certificate of {identity.spiffe_id} expired at {identity.expires.isoformat()}",
            remedy="ask the operator for a new certificate",
        )
    return Caller(identity, context.roles.rights(identity.spiffe_id))


def authorise(route: Route, caller: Caller) -> None:
    """Raises `RefusalError` (`forbidden`) unless the caller has one of the route's roles.

    A route for a keep's principals decides itself, with the keep at hand.
    """
    if route.principals or caller.rights.roles & route.roles:
        return
    has = f"has {', '.join(sorted(caller.rights.roles))}" if caller.rights.roles else "has no role here"
    raise RefusalError(
        ErrorCode.FORBIDDEN,
        f"{caller.id} {has}; {route.method} {route.path} is for {', '.join(sorted(route.roles))}",
        remedy="ask the operator for a role in roles.toml",
    )
