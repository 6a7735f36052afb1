"""Writing a keep's spec: who is let in, every default explicit, a fresh nonce."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable
from secrets import token_hex

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keep_client.errors import InvalidArgumentError
from keep_protocol.evidence import EvidenceKind
from keep_protocol.network_policy import NO_NETWORK, NetworkPolicy
from keep_protocol.secret_sources import SecretSource
from keep_protocol.spec import (
    DEFAULT_LIMITS,
    MAX_SPEC_SIZE,
    KeepSpec,
    Limits,
    Principal,
    canonical,
    decode_spec,
)
from keep_protocol.states import AtRest, Backend, CrlPolicy, KeepRole


def new_spec(
    *,
    principals: Iterable[Principal],
    limits: Limits = DEFAULT_LIMITS,
    backend: Backend = Backend.PROCESS,
    at_rest: AtRest = AtRest.SEALED,
    evidence: EvidenceKind | None = None,
    network: NetworkPolicy = NO_NETWORK,
    restart_runs: bool = False,
    secrets: Iterable[SecretSource] = (),
) -> KeepSpec:
    """A spec that no other keep has. Raises `InvalidArgumentError` for one that no manager would take."""
    try:
        spec = KeepSpec(
            version=1,
            nonce=token_hex(16),
            backend=backend,
            at_rest=at_rest,
            evidence=evidence,
            network=network,
            principals=_merged(principals),
            limits=limits,
            restart_runs=restart_runs,
            secrets=tuple(secrets),
        )
        raw = canonical(spec)
        # msgspec checks ranges and patterns when it decodes only.
        decode_spec(raw)
    except (ValueError, msgspec.ValidationError) as error:
        raise InvalidArgumentError(f"the spec is not valid: {error}") from error
    if len(raw) > MAX_SPEC_SIZE:
        raise InvalidArgumentError(f"the spec has {len(raw)} bytes, at most {MAX_SPEC_SIZE} are allowed")
    return spec


def principal_of(
    certificate: str,
    roles: Iterable[KeepRole],
    *,
    client_ca: str | None = None,
    crl: CrlPolicy = CrlPolicy.REQUIRED,
) -> Principal:
    """The principal whose certificate (PEM) this is.

    A self-signed one is pinned as it is. One that a CA issued is named by its SPIFFE id under `client_ca` (PEM), so
    that the holder may renew it. Raises `InvalidArgumentError`.
    """
    parsed = load_certificate(certificate)
    if parsed.issuer == parsed.subject:
        return Principal(roles=tuple(roles), certificate=_der(parsed))
    name = parsed.subject.rfc4514_string() or spiffe_id_of(parsed)
    if client_ca is None:
        raise InvalidArgumentError(f"the certificate of {name} was issued by a CA: give that CA's certificate too")
    authority = load_certificate(client_ca)
    try:
        parsed.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError) as error:
        raise InvalidArgumentError(
            f"the certificate of {name} was not issued by the CA {authority.subject.rfc4514_string()}"
        ) from error
    return named_principal(spiffe_id_of(parsed), roles, client_ca=client_ca, crl=crl)


def pinned_principal(certificate: str, roles: Iterable[KeepRole]) -> Principal:
    """The holder of exactly this certificate (PEM), whoever issued it. Raises `InvalidArgumentError`."""
    return Principal(roles=tuple(roles), certificate=_der(load_certificate(certificate)))


def named_principal(
    spiffe_id: str, roles: Iterable[KeepRole], *, client_ca: str, crl: CrlPolicy = CrlPolicy.REQUIRED
) -> Principal:
    """Whoever `client_ca` (PEM) certifies to be `spiffe_id`. Raises `InvalidArgumentError`."""
    return Principal(roles=tuple(roles), ca=_der(load_certificate(client_ca)), spiffe_id=spiffe_id, crl=crl)


def load_certificate(pem: str) -> x509.Certificate:
    """The first certificate in `pem`. Raises `InvalidArgumentError`."""
    try:
        return x509.load_pem_x509_certificate(pem.encode())
    except ValueError as error:
        raise InvalidArgumentError(f"this is not a certificate in PEM: {error}") from error


def spiffe_id_of(certificate: x509.Certificate) -> str:
    """The one SPIFFE id in a certificate. Raises `InvalidArgumentError`."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        uris = []
    else:
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1 or not uris[0].startswith("spiffe://"):
        raise InvalidArgumentError(f"the certificate has {len(uris)} URI names, expected one, a SPIFFE id")
    return uris[0]


def check_authorities(spec: KeepSpec, own: str, manager_ca: str) -> None:
    """Refuse a spec by which the host of a keep that distrusts it could name principals; see `GET /v1/backends`.

    `own` is the certificate (PEM) by which its manager knows us: the CA that issued it is the host's. So are those in
    `manager_ca` (PEM), which certify the manager. Raises `InvalidArgumentError`.
    """
    if not spec.backend.is_measured:
        return
    certificate = load_certificate(own)
    servers = {_spki(authority) for authority in _load_certificates(manager_ca)}
    for number, principal in enumerate(spec.principals):
        if principal.ca is None:
            continue
        authority = x509.load_der_x509_certificate(b64decode(principal.ca))
        if _spki(authority) not in servers and not _has_issued(authority, certificate):
            continue
        raise InvalidArgumentError(
            f"principals[{number}].ca is the CA of the host itself, and a {spec.backend} keep trusts nothing that the "
            "host can sign: name the principal by its own certificate, or by a CA whose key is elsewhere"
        )


def _has_issued(authority: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _spki(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _load_certificates(pem: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem.encode())
    except ValueError as error:
        raise InvalidArgumentError(f"the manager's CA is not a certificate in PEM: {error}") from error


def _merged(principals: Iterable[Principal]) -> tuple[Principal, ...]:
    """The same somebody named twice becomes one principal with the roles of both."""
    merged: dict[Principal, dict[KeepRole, None]] = {}
    for principal in principals:
        # A dict keeps the order in which roles were named, and names none twice.
        roles = merged.setdefault(msgspec.structs.replace(principal, roles=(KeepRole.OWNER,)), {})
        roles.update(dict.fromkeys(principal.roles))
    return tuple(msgspec.structs.replace(who, roles=tuple(roles)) for who, roles in merged.items())


def _der(certificate: x509.Certificate) -> str:
    return b64encode(certificate.public_bytes(Encoding.DER)).decode()
