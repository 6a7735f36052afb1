"""A deployment's certificates: a CA for clients, a CA for the manager, the leaves below them.

EC P-256 and SHA-256 throughout. The leaves pass OpenSSL's `X509_STRICT` and carry one purpose each.
"""

from __future__ import annotations

import datetime
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from keep_manager.config import write_private
from keep_manager.errors import CertificateRequestError, ConfigurationError

IDENTITY_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", re.ASCII)
IDENTITY_NAME_RULE = "1 to 63 of A-Z a-z 0-9 . _ -, a letter or digit first and last"

CA_LIFETIME = datetime.timedelta(days=3650)
SERVER_LIFETIME = datetime.timedelta(days=90)
CLIENT_LIFETIME = datetime.timedelta(days=90)
MAX_CLIENT_LIFETIME = datetime.timedelta(days=397)
BACKDATED = datetime.timedelta(minutes=5)
"""A certificate that is not valid yet is refused, and clocks differ."""

_SIGNING_ONLY = {
    "digital_signature": True,
    "content_commitment": False,
    "key_encipherment": False,
    "data_encipherment": False,
    "key_agreement": False,
    "key_cert_sign": False,
    "crl_sign": False,
    "encipher_only": False,
    "decipher_only": False,
}


@dataclass(frozen=True, slots=True)
class PkiPaths:
    """The files of `config/pki`; keys are 0600."""

    folder: Path

    @property
    def client_ca(self) -> Path:
        return self.folder / "client-ca.pem"

    @property
    def server_ca(self) -> Path:
        return self.folder / "server-ca.pem"

    @property
    def server(self) -> Path:
        return self.folder / "server.pem"

    @property
    def operator(self) -> Path:
        return self.folder / "operator.pem"

    @property
    def client_crl(self) -> Path:
        return self.folder / "client-crl.pem"

    @property
    def issued(self) -> Path:
        return self.folder / "issued.json"


def key_of(certificate: Path) -> Path:
    """Where the key of a certificate of this PKI lies."""
    return certificate.with_suffix(".key")


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def spiffe_id(domain: str, name: str) -> str:
    """The identity of a user of this deployment."""
    return f"spiffe://{domain}/user/{name}"


def create_authority(common_name: str) -> Authority:
    """A new self-signed CA that may sign leaves and revocation lists."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(common_name)
    usage = x509.KeyUsage(**{**_SIGNING_ONLY, "digital_signature": False, "key_cert_sign": True, "crl_sign": True})
    certificate = (
        _builder(name, name, key.public_key(), CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate, key)


def issue_server(authority: Authority, hosts: Iterable[str]) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """The manager's certificate for all names and addresses in `hosts`, with a new key."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = [_general_name(host) for host in hosts]
    certificate = _sign_leaf(
        authority, "keep-manager", key.public_key(), names, ExtendedKeyUsageOID.SERVER_AUTH, SERVER_LIFETIME
    )
    return certificate, key


def issue_client(
    authority: Authority,
    public_key: ec.EllipticCurvePublicKey,
    *,
    name: str,
    domain: str,
    lifetime: datetime.timedelta = CLIENT_LIFETIME,
) -> x509.Certificate:
    """A client certificate whose one URI is the identity `name` in `domain`."""
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(spiffe_id(domain, name))]
    return _sign_leaf(authority, name, public_key, names, ExtendedKeyUsageOID.CLIENT_AUTH, lifetime)


def request_key(csr: bytes) -> ec.EllipticCurvePublicKey:
    """The public key of a PKCS #10 request; nothing else of it is used. Raises `CertificateRequestError`."""
    try:
        request = x509.load_pem_x509_csr(csr)
        valid = request.is_signature_valid
        key = request.public_key()
    except Exception as error:  # cryptography raises many kinds for malformed input
        raise CertificateRequestError(f"this is no certificate signing request in PEM: {error}") from None
    if not valid:
        raise CertificateRequestError("the request is not signed by the key in it; make a new one")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CertificateRequestError("the request's key is not EC P-256; make one with `keepctl identity new`")
    return key


def load_authority(certificate: Path) -> Authority:
    """A CA of this PKI with its key. Raises `ConfigurationError`."""
    key_path = key_of(certificate)
    try:
        key = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{key_path} is not a usable key: {error}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigurationError(f"{key_path} is not an EC key")
    return Authority(load_certificate(certificate), key)


def load_certificate(path: Path) -> x509.Certificate:
    """The certificate in a PEM file. Raises `ConfigurationError`."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} is not a usable certificate: {error}") from None


def write_certificate(path: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey | None) -> None:
    """Write a certificate (0644) and, before it, its key (0600)."""
    if key is not None:
        write_private(
            key_of(path),
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )
    write_private(path, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)


def renew_server(paths: PkiPaths, hosts: Iterable[str]) -> bool:
    """Replace the manager's certificate when less than a third of its life is left; says whether it did.

    The key goes to disk before the certificate: whoever loads between the two sees a mismatch and keeps the old pair.
    """
    certificate = load_certificate(paths.server)
    left = certificate.not_valid_after_utc - now()
    if left > (certificate.not_valid_after_utc - certificate.not_valid_before_utc) / 3:
        return False
    write_certificate(paths.server, *issue_server(load_authority(paths.server_ca), hosts))
    return True


def now() -> datetime.datetime:
    """The time, in whole seconds of UTC as certificates have it."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)


def _sign_leaf(
    authority: Authority,
    common_name: str,
    public_key: ec.EllipticCurvePublicKey,
    names: list[x509.GeneralName],
    purpose: x509.ObjectIdentifier,
    lifetime: datetime.timedelta,
) -> x509.Certificate:
    issuer = authority.certificate
    return (
        _builder(_name(common_name), issuer.subject, public_key, lifetime)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**_SIGNING_ONLY), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
        .sign(authority.key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, lifetime: datetime.timedelta
) -> x509.CertificateBuilder:
    moment = now()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - BACKDATED)
        .not_valid_after(moment + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    # RFC 5280 allows 64 characters; OpenSSL refuses longer ones.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
