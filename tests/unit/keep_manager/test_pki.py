"""Certificates in real handshakes, over sockets in this process."""

from __future__ import annotations

import base64
import datetime
import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256

from keep_manager import issued, pki
from keep_manager.config import Home
from keep_manager.errors import CertificateRequestError, ConfigurationError
from keep_manager.identity import identity_of
from keep_manager.pki import PkiPaths
from keep_manager.tls import server_context
from keep_protocol.errors import RefusalError
from tests.unit.keep_manager.running import (
    DOMAIN,
    Client,
    make_client,
    make_home,
    make_request,
    operator_of,
    tls_context,
)


def handshake(home: Home, client: Client | None) -> tuple[bytes | None, str | None]:
    """The client certificate that the server saw, and the alert that the client got."""
    ours, theirs = socket.socketpair()
    seen: list[bytes | None] = []

    def serve() -> None:
        context = server_context(PkiPaths(home.pki))
        context.num_tickets = 0
        try:
            with context.wrap_socket(ours, server_side=True) as server:
                seen.append(server.getpeercert(binary_form=True))
                server.sendall(b"hello")
        except ssl.SSLError:
            ours.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with tls_context(home, client).wrap_socket(theirs, server_hostname="localhost") as connection:
            assert connection.version() == "TLSv1.3"
            assert connection.recv(5) == b"hello"
            return seen[0], None
    except ssl.SSLError as error:
        return None, error.reason
    finally:
        theirs.close()
        thread.join()


def test_the_first_operator_passes_the_handshake_and_is_named(home: Home) -> None:
    certificate, alert = handshake(home, operator_of(home))
    assert alert is None
    assert certificate is not None
    assert identity_of(certificate, DOMAIN).spiffe_id == f"spiffe://{DOMAIN}/user/operator"


def test_no_certificate_is_refused_with_the_right_alert(home: Home) -> None:
    assert handshake(home, None) == (None, "TLSV13_ALERT_CERTIFICATE_REQUIRED")


def test_a_certificate_of_another_home_is_refused(home: Home, folder: Path) -> None:
    stranger = operator_of(make_home(folder / "other"))
    assert handshake(home, stranger) == (None, "TLSV1_ALERT_UNKNOWN_CA")


def test_a_revoked_client_is_refused_in_the_handshake_and_others_are_not(home: Home) -> None:
    alice, bob = make_client(home, "alice"), make_client(home, "bob")
    (entry,) = issued.revoke(PkiPaths(home.pki), "alice")
    assert entry.revoked_at is not None
    assert handshake(home, alice) == (None, "SSLV3_ALERT_CERTIFICATE_REVOKED")
    assert handshake(home, bob)[1] is None
    assert issued.revoke(PkiPaths(home.pki), "alice") == ()


def test_an_expired_revocation_list_refuses_everybody(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = PkiPaths(home.pki)
    monkeypatch.setattr(issued, "CRL_LIFETIME", datetime.timedelta(0))
    paths.client_crl.unlink()
    assert issued.renew_crl(paths)
    assert handshake(home, operator_of(home))[1] is not None


def test_an_expired_client_is_refused(home: Home) -> None:
    paths = PkiPaths(home.pki)
    alice = make_client(home, "alice")
    key = serialization.load_pem_private_key(alice.key.read_bytes(), None)
    certificate = pki.issue_client(
        pki.load_authority(paths.client_ca),
        key.public_key(),  # type: ignore[arg-type]
        name="alice",
        domain=DOMAIN,
        lifetime=datetime.timedelta(seconds=-60),
    )
    alice.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    assert handshake(home, alice) == (None, "SSLV3_ALERT_CERTIFICATE_EXPIRED")


def test_the_server_certificate_names_this_host_and_what_init_was_given(folder: Path) -> None:
    home = make_home(folder / "home", hosts=("keeps.example.org", "192.0.2.7"))
    certificate = pki.load_certificate(home.pki / "server.pem")
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    dns = names.get_values_for_type(x509.DNSName)
    assert {"keeps.example.org", "localhost", socket.gethostname()} <= set(dns)
    assert {"192.0.2.7", "127.0.0.1"} <= {str(address) for address in names.get_values_for_type(x509.IPAddress)}


def test_a_server_certificate_lives_no_longer_than_scanners_accept(home: Home) -> None:
    certificate = pki.load_certificate(PkiPaths(home.pki).server)
    assert (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days <= 90


def test_keys_are_readable_by_their_owner_only(home: Home) -> None:
    keys = list(home.path.rglob("*.key"))
    assert len(keys) == 4
    assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (home.path, home.config, home.pki, home.state)} == {0o700}


def test_a_second_init_of_one_home_is_refused(home: Home) -> None:
    before = (home.pki / "operator.pem").read_bytes()
    with pytest.raises(ConfigurationError, match="is a home already"):
        make_home(home.path)
    assert (home.pki / "operator.pem").read_bytes() == before


def test_the_list_is_signed_again_after_a_day_and_not_before(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = PkiPaths(home.pki)
    assert not issued.renew_crl(paths)
    monkeypatch.setattr(issued, "CRL_RENEWAL", datetime.timedelta(0))
    assert issued.renew_crl(paths)


def test_a_server_certificate_near_its_end_is_renewed(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = PkiPaths(home.pki)
    assert not pki.renew_server(paths, ["localhost"])
    later = pki.now() + datetime.timedelta(days=300)
    monkeypatch.setattr(pki, "now", lambda: later)
    assert pki.renew_server(paths, ["localhost"])
    assert pki.load_certificate(paths.server).not_valid_before_utc > later - datetime.timedelta(hours=1)


def armoured(der: bytes) -> bytes:
    label = b"CERTIFICATE REQUEST-----\n"
    return b"-----BEGIN " + label + base64.encodebytes(der) + b"-----END " + label


@pytest.mark.parametrize("csr", [b"", b"hello", armoured(b"\x00\x00\x00")])
def test_what_is_no_request_is_refused(csr: bytes) -> None:
    with pytest.raises(CertificateRequestError, match="no certificate signing request"):
        pki.request_key(csr)


def test_a_request_with_another_kind_of_key_is_refused() -> None:
    key = rsa.generate_private_key(65537, 2048)
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, SHA256())
    with pytest.raises(CertificateRequestError, match="EC P-256"):
        pki.request_key(request.public_bytes(serialization.Encoding.PEM))


def test_a_request_that_somebody_changed_is_refused() -> None:
    _, pem = make_request()
    der = bytearray(x509.load_pem_x509_csr(pem).public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    with pytest.raises(CertificateRequestError):
        pki.request_key(armoured(bytes(der)))


@pytest.mark.parametrize(
    "uris",
    [
        [],
        [f"spiffe://{DOMAIN}/user/a", f"spiffe://{DOMAIN}/user/b"],
        ["spiffe://elsewhere/user/a"],
        [f"spiffe://{DOMAIN}.evil/user/a"],
        [f"https://{DOMAIN}/user/a"],
        [f"spiffe://{DOMAIN}"],
        [f"spiffe://{DOMAIN}/"],
        [f"spiffe://{DOMAIN}/user/../operator"],
        [f"spiffe://{DOMAIN}/user//a"],
        [f"spiffe://{DOMAIN}/user/a?x"],
        [f"spiffe://{DOMAIN}/user/%61"],
    ],
)
def test_only_one_canonical_spiffe_id_of_our_domain_is_an_identity(uris: list[str]) -> None:
    key, _ = make_request()
    name = x509.Name([])
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(pki.now())
        .not_valid_after(pki.now() + datetime.timedelta(days=1))
    )
    if uris:
        names = [x509.UniformResourceIdentifier(uri) for uri in uris]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    certificate = builder.sign(key, SHA256()).public_bytes(serialization.Encoding.DER)
    with pytest.raises(RefusalError, match="names nobody"):
        identity_of(certificate, DOMAIN)
