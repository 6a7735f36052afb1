"""Which client certificates a deployment has signed, which of them are revoked, and the list that says so."""

from __future__ import annotations

import datetime
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from keep_manager.config import write_private
from keep_manager.errors import ConfigurationError
from keep_manager.pki import Authority, PkiPaths, load_authority, now

CRL_LIFETIME = datetime.timedelta(days=30)
CRL_RENEWAL = datetime.timedelta(days=1)
"""A list of this age is signed again, long before it expires: an expired one refuses everybody."""


class IssuedCertificate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of the index. `serial` is hex; times are RFC 3339."""

    serial: str
    name: str
    spiffe_id: str
    issued_at: str
    expires_at: str
    revoked_at: str | None = None


class IssuedIndex(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`issued.json`."""

    certificates: tuple[IssuedCertificate, ...] = ()
    crl_number: int = 0


@contextmanager
def _locked(paths: PkiPaths) -> Iterator[None]:
    """`issue`, `revoke` and a running manager write the same files."""
    descriptor = os.open(paths.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def read_index(paths: PkiPaths) -> IssuedIndex:
    """The index. Raises `ConfigurationError`: without it nothing can be revoked."""
    try:
        return msgspec.json.decode(paths.issued.read_bytes(), type=IssuedIndex)
    except FileNotFoundError:
        raise ConfigurationError(f"{paths.issued} is missing: restore it from a backup of the home") from None
    except msgspec.DecodeError as error:
        raise ConfigurationError(f"{paths.issued} is damaged: {error}; restore it from a backup of the home") from None


def create_index(paths: PkiPaths, authority: Authority) -> None:
    """An empty index and an empty revocation list."""
    with _locked(paths):
        _publish(paths, IssuedIndex(), authority)


def register(paths: PkiPaths, certificate: x509.Certificate, name: str, identity: str) -> None:
    """Remember a signed certificate; done before it is given away, so that it can always be revoked."""
    entry = IssuedCertificate(
        serial=f"{certificate.serial_number:x}",
        name=name,
        spiffe_id=identity,
        issued_at=now().isoformat(),
        expires_at=certificate.not_valid_after_utc.isoformat(),
    )
    with _locked(paths):
        index = read_index(paths)
        _write(paths, msgspec.structs.replace(index, certificates=(*index.certificates, entry)))


def revoke(paths: PkiPaths, name: str) -> tuple[IssuedCertificate, ...]:
    """Revoke every certificate of `name` that is still valid, and publish the list. Returns what was revoked."""
    moment = now()
    with _locked(paths):
        index = read_index(paths)
        revoked = tuple(
            msgspec.structs.replace(entry, revoked_at=moment.isoformat())
            for entry in index.certificates
            if entry.name == name and entry.revoked_at is None and _expires(entry) > moment
        )
        if revoked:
            by_serial = {entry.serial: entry for entry in revoked}
            entries = tuple(by_serial.get(entry.serial, entry) for entry in index.certificates)
            _publish(paths, msgspec.structs.replace(index, certificates=entries), load_authority(paths.client_ca))
        return revoked


def renew_crl(paths: PkiPaths) -> bool:
    """Sign the list again when it is a day old, missing or unreadable; says whether it did."""
    with _locked(paths):
        try:
            crl = x509.load_pem_x509_crl(paths.client_crl.read_bytes())
        except (OSError, ValueError):
            age = CRL_RENEWAL
        else:
            age = now() - crl.last_update_utc
        if age < CRL_RENEWAL:
            return False
        _publish(paths, read_index(paths), load_authority(paths.client_ca))
        return True


def revoked_serials(paths: PkiPaths) -> frozenset[int]:
    """The serials on the published list. Raises `ConfigurationError`."""
    try:
        crl = x509.load_pem_x509_crl(paths.client_crl.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{paths.client_crl} is not a usable revocation list: {error}") from None
    return frozenset(entry.serial_number for entry in crl)


def _publish(paths: PkiPaths, index: IssuedIndex, authority: Authority) -> None:
    """Index first: a crash between the two leaves a list that the next renewal corrects from the index."""
    index = msgspec.structs.replace(index, crl_number=index.crl_number + 1)
    _write(paths, index)
    moment = now()
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(moment - datetime.timedelta(seconds=1))
        .next_update(moment + CRL_LIFETIME)
        .add_extension(x509.CRLNumber(index.crl_number), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
    )
    for entry in index.certificates:
        if entry.revoked_at is not None and _expires(entry) > moment:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(int(entry.serial, 16))
                .revocation_date(datetime.datetime.fromisoformat(entry.revoked_at))
                .build()
            )
    crl = builder.sign(authority.key, hashes.SHA256())
    write_private(paths.client_crl, crl.public_bytes(serialization.Encoding.PEM), mode=0o644)


def _write(paths: PkiPaths, index: IssuedIndex) -> None:
    write_private(paths.issued, msgspec.json.format(msgspec.json.encode(index), indent=1))


def _expires(entry: IssuedCertificate) -> datetime.datetime:
    return datetime.datetime.fromisoformat(entry.expires_at)
