"""Who may talk to this keep: the principals of its spec, and the client that a connection belongs to."""

from __future__ import annotations

import binascii
import hashlib
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol

from app_loader.errors import LibcryptoError, PrincipalError
from app_loader.libcrypto import Certificate, Rejection, verify_client
from app_loader.revocation import Revocations
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.spec import Principal
from keep_protocol.states import CrlPolicy, KeepRole

_MAX_BELIEF: Final = 3600.0
"""Seconds after which a verified certificate is verified again, whatever its dates say."""


class Peer(Protocol):
    """The other end of a connection, as requests see it."""

    @property
    def name(self) -> str:
        """Who it is, for the log."""

    def roles(self) -> frozenset[KeepRole]:
        """What it may be now. Raises `RefusalError` when nothing."""


class Visitors(Protocol):
    """Who may come to a port."""

    def identify(self, der: bytes | None, names: dict[str, Any] | None) -> Peer:
        """The client with this certificate, or without one. Raises `RefusalError` (`identity-invalid`)."""


class Anybody:
    """Visitors of a public port, who are asked for no certificate and are all the same: callers."""

    name = "anybody"

    def identify(self, der: bytes | None, names: dict[str, Any] | None) -> Anybody:
        """See `Visitors`."""
        return self

    def roles(self) -> frozenset[KeepRole]:
        """See `Peer`."""
        return frozenset({KeepRole.CALLER})


class Authority:
    """A CA of the spec, with the one SPIFFE id that is let in under it."""

    def __init__(self, principal: Principal, certificate: Certificate) -> None:
        self.certificate = certificate
        self.spiffe_id = principal.spiffe_id
        self.roles = frozenset(principal.roles)
        self.needs_list = principal.crl is CrlPolicy.REQUIRED


class Client:
    """The verified other end of one connection. Who it is stays; what it may do is asked per request."""

    def __init__(
        self,
        name: str,
        certificate: Certificate,
        pinned_roles: frozenset[KeepRole],
        authorities: Sequence[Authority],
        revocations: Revocations,
    ) -> None:
        self.name = name
        """Its SPIFFE id, or `sha256:` and the fingerprint of its certificate."""
        self._certificate = certificate
        self._pinned_roles = pinned_roles
        self._authorities = authorities
        self._revocations = revocations
        self._needs_list = any(authority.needs_list for authority in authorities)
        self._roles: frozenset[KeepRole] = frozenset()
        self._generation = -1
        self._checked_at = self._valid_until = 0.0

    def roles(self) -> frozenset[KeepRole]:
        """What it may be now. Raises `RefusalError` when nothing: expired, revoked, or no usable list."""
        generation = self._revocations.refresh() if self._needs_list else 0
        # A clock that was set back makes the verdict stale too.
        if generation != self._generation or not self._checked_at <= time.time() < self._valid_until:
            self._roles = self._verify()
            self._generation = generation
        return self._roles

    def _verify(self) -> frozenset[KeepRole]:
        self._generation = -1
        now = time.time()
        valid_until = min(self._certificate.not_after, now + _MAX_BELIEF)
        if valid_until <= now:
            raise RefusalError(ErrorCode.IDENTITY_INVALID, "the client certificate has expired")
        roles = self._pinned_roles
        refusal = None
        for authority in self._authorities:
            lists = self._revocations.lists if authority.needs_list else None
            if rejection := verify_client(self._certificate, authority.certificate, lists):
                refusal = _refusal(rejection)
                continue
            roles |= authority.roles
            for revocations in lists or ():
                if revocations.names_issuer(authority.certificate):
                    valid_until = min(valid_until, revocations.next_update)
        if not roles:
            raise refusal or _stranger("the client certificate names no principal of this keep")
        self._checked_at, self._valid_until = now, valid_until
        return roles


class Principals:
    """Everybody whom the spec lets in. Raises `PrincipalError` for a spec that cannot be kept.

    `distrusted` are CAs in DER whose word counts nothing: a keep of trusted hardware lets its host name nobody.
    """

    def __init__(
        self, principals: Iterable[Principal], revocations: Revocations, *, distrusted: Iterable[bytes] = ()
    ) -> None:
        host_keys = frozenset(map(_public_key, distrusted))
        self.revocations = revocations
        self._pinned: dict[bytes, frozenset[KeepRole]] = {}
        self._authorities: list[Authority] = []
        for number, principal in enumerate(principals):
            where = f"principals[{number}]"
            if principal.certificate is not None:
                certificate = _certificate(principal.certificate, where)
                known = self._pinned.get(certificate.der, frozenset())
                self._pinned[certificate.der] = known | frozenset(principal.roles)
            elif principal.ca is not None:
                certificate = _certificate(principal.ca, where)
                if not certificate.is_authority:
                    raise PrincipalError(f"{where}: `ca` is a certificate that may not sign others")
                if certificate.public_key in host_keys:
                    raise PrincipalError(f"{where}: `ca` is the host's own, which this keep does not trust")
                self._authorities.append(Authority(principal, certificate))

    @property
    def anchors(self) -> bytes:
        """All certificates of the spec, DER after DER: the whole trust store."""
        authorities = {authority.certificate.der for authority in self._authorities}
        return b"".join(sorted(authorities | self._pinned.keys()))

    @property
    def pins(self) -> bool:
        """Whether some principal is an exact certificate."""
        return bool(self._pinned)

    @property
    def all_need_list(self) -> bool:
        """Whether nobody gets in without a revocation list, so that OpenSSL can ask for it in the handshake."""
        return not self._pinned and all(authority.needs_list for authority in self._authorities)

    def usable_lists(self) -> bytes:
        """The host's lists that claim to be from a CA of the spec, in PEM, for OpenSSL to judge."""
        return b"".join(
            _pem(revocations.der)
            for revocations in self.revocations.lists
            if any(revocations.names_issuer(authority.certificate) for authority in self._authorities)
        )

    def identify(self, der: bytes | None, names: dict[str, Any] | None) -> Client:
        """The client with this certificate, which TLS has verified; `names` is it as `getpeercert()` decodes it.

        Raises `RefusalError` (`identity-invalid`).
        """
        if der is None or names is None:
            raise _stranger("there is no client certificate")
        try:
            certificate = Certificate(der)
        except LibcryptoError as error:
            raise _stranger(str(error)) from None
        pinned_roles = self._pinned.get(der, frozenset())
        uris = [value for kind, value in names.get("subjectAltName", ()) if kind == "URI"]
        # SPIFFE X.509-SVID, section 2: more than one URI is no identity.
        spiffe_id = uris[0] if len(uris) == 1 else None
        # clientAuth must be said, not only not excluded; but whoever names an exact certificate knows what it says.
        authorities = [
            authority
            for authority in self._authorities
            if certificate.for_clients
            and authority.spiffe_id == spiffe_id
            and not _issued_by_another(certificate, authority)
        ]
        if not pinned_roles and not authorities:
            raise _stranger("the client certificate names no principal of this keep")
        name = spiffe_id if authorities and spiffe_id else f"sha256:{hashlib.sha256(der).hexdigest()}"
        return Client(name, certificate, pinned_roles, authorities, self.revocations)


def _issued_by_another(certificate: Certificate, authority: Authority) -> bool:
    rejection = verify_client(certificate, authority.certificate, None)
    return rejection is not None and not rejection.expired


def _public_key(der: bytes) -> bytes:
    try:
        return Certificate(der).public_key
    except LibcryptoError as error:
        raise PrincipalError(f"the host does not say which CA is its own: {error}") from None


def _certificate(encoded: str, where: str) -> Certificate:
    try:
        return Certificate(binascii.a2b_base64(encoded, strict_mode=True))
    except (binascii.Error, LibcryptoError) as error:
        raise PrincipalError(f"{where}: {error}") from None


def _refusal(rejection: Rejection) -> RefusalError:
    if rejection.revoked:
        return RefusalError(ErrorCode.CERTIFICATE_REVOKED, "the client certificate is revoked")
    if rejection.list_unusable:
        return RefusalError(
            ErrorCode.CRL_UNUSABLE,
            f"the spec requires a revocation list, and the host's cannot be used: {rejection.reason}",
            remedy="ask the host's operator for a current list",
        )
    return _stranger(f"the client certificate is not accepted: {rejection.reason}")


def _stranger(detail: str) -> RefusalError:
    return RefusalError(ErrorCode.IDENTITY_INVALID, detail)


def _pem(der: bytes) -> bytes:
    return b"-----BEGIN X509 CRL-----\n" + binascii.b2a_base64(der) + b"-----END X509 CRL-----\n"
