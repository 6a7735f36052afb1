"""The keep's certificate as clients check it, and where its key is not."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from app_loader.errors import IdentityError
from app_loader.identity import BACKDATED, LIFETIME, Identity

NAMES = ("keep.example.net", "192.0.2.7", "2001:db8::7")


def handshake(identity: Identity, name: str) -> None:
    """A handshake in memory with a client that trusts exactly this certificate and checks it strictly."""
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    identity.load_into(server_context)
    client_context = ssl.create_default_context(cadata=identity.certificate)
    client_context.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    client = client_context.wrap_bio(to_client, to_server, server_hostname=name)
    waiting = [client, server]
    while waiting:
        end = waiting.pop(0)
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            waiting.append(end)


@pytest.mark.parametrize("name", ["0123456789abcdef.keep.example.org", *NAMES])
def test_strict_clients_accept_it_for_each_of_its_names(name: str) -> None:
    handshake(Identity("0123456789abcdef", "example.org", NAMES), name)


@pytest.mark.parametrize("name", ["fedcba9876543210.keep.example.org", "example.net", "192.0.2.8"])
def test_clients_refuse_it_for_other_names(name: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(Identity("0123456789abcdef", "example.org", NAMES), name)


def test_it_says_what_it_is_for_and_no_more() -> None:
    clock = 1_800_000_000.0
    identity = Identity("0123456789abcdef", "example.org", (), clock=lambda: clock)
    certificate = x509.load_pem_x509_certificate(identity.certificate.encode())
    assert certificate.not_valid_before_utc.timestamp() == clock - BACKDATED
    assert certificate.not_valid_after_utc.timestamp() == clock - BACKDATED + LIFETIME
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca) == (True, False)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.digital_signature, usage.key_cert_sign) == (True, False)
    purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    assert certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    certificate.verify_directly_issued_by(certificate)


def test_serial_numbers_and_keys_are_never_the_same() -> None:
    made = [Identity("0123456789abcdef", "example.org", ()) for _ in range(3)]
    certificates = [x509.load_pem_x509_certificate(identity.certificate.encode()) for identity in made]
    assert len({certificate.serial_number for certificate in certificates}) == 3
    assert len({_spki(certificate) for certificate in certificates}) == 3


def test_it_is_renewed_at_half_its_life_with_the_same_key() -> None:
    clock = 1_800_000_000.0
    identity = Identity("0123456789abcdef", "example.org", (), clock=lambda: clock)
    before = x509.load_pem_x509_certificate(identity.certificate.encode())
    clock += LIFETIME / 2 - BACKDATED - 1
    assert not identity.due
    clock += 1
    assert identity.due
    identity.renew()
    after = x509.load_pem_x509_certificate(identity.certificate.encode())
    assert not identity.due
    assert after.not_valid_after_utc > before.not_valid_after_utc
    assert _spki(after) == _spki(before)


def test_a_certificate_beyond_2049_can_be_read() -> None:
    clock = 2_600_000_000.0
    identity = Identity("0123456789abcdef", "example.org", (), clock=lambda: clock)
    certificate = x509.load_pem_x509_certificate(identity.certificate.encode())
    assert certificate.not_valid_before_utc.timestamp() == clock - BACKDATED


@pytest.mark.parametrize("name", ["", "two words", "bücher.example", "nul\0.example"])
def test_a_name_that_no_certificate_can_have_is_an_error(name: str) -> None:
    with pytest.raises(IdentityError):
        Identity("0123456789abcdef", "example.org", (name,))


def test_loading_the_key_leaves_no_descriptor_open() -> None:
    identity = Identity("0123456789abcdef", "example.org", ())
    before = sorted(os.listdir("/proc/self/fd"))
    identity.load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_the_key_never_touches_a_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    Identity("0123456789abcdef", "example.org", ()).load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    assert list(tmp_path.iterdir()) == []


def _spki(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
