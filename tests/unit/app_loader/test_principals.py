"""Whom a certificate makes its holder, and what that is worth from request to request."""

from __future__ import annotations

import base64
import ssl
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from app_loader.errors import PrincipalError
from app_loader.libcrypto import Rejection, verify_client
from app_loader.principals import Client, Principals
from app_loader.revocation import Revocations
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.spec import Principal
from keep_protocol.states import CrlPolicy, KeepRole
from tests.unit.app_loader.pki import DAY, MINUTE, Authority, Credential, now, self_signed

ALICE = "spiffe://example.org/user/alice"
BOB = "spiffe://example.org/user/bob"


@pytest.fixture
def crl(tmp_path: Path) -> Path:
    return tmp_path / "client-crl.pem"


def identify(credential: Credential, crl: Path, *named: Principal) -> Client:
    """The client with this certificate, as after a handshake."""
    names = credential.certificate.extensions
    try:
        uris = names.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
            x509.UniformResourceIdentifier
        )
    except x509.ExtensionNotFound:
        uris = []
    decoded = {"subjectAltName": tuple(("URI", uri) for uri in uris)}
    return Principals(named, Revocations(crl)).identify(credential.der, decoded)


def refused(credential: Credential, crl: Path, *named: Principal) -> ErrorCode:
    with pytest.raises(RefusalError) as refusal:
        identify(credential, crl, *named).roles()
    return refusal.value.code


class TestIdentity:
    def test_an_exact_certificate_is_named_by_its_fingerprint(self, crl: Path) -> None:
        pinned = self_signed()
        client = identify(pinned, crl, pinned.pinned(KeepRole.CALLER))
        assert client.name.startswith("sha256:")
        assert client.roles() == {KeepRole.CALLER}

    def test_a_spiffe_id_under_its_ca_is_named_by_it(self, crl: Path) -> None:
        authority = Authority()
        client = identify(authority.issue(ALICE), crl, authority.names(ALICE, KeepRole.AUDITOR))
        assert client.name == ALICE
        assert client.roles() == {KeepRole.AUDITOR}

    def test_a_client_of_one_ca_is_nobody_under_another(self, crl: Path) -> None:
        one, other = Authority("one"), Authority("other")
        named = (one.names(ALICE), other.names(BOB))
        assert refused(one.issue(BOB), crl, *named) is ErrorCode.IDENTITY_INVALID
        assert refused(other.issue(ALICE), crl, *named) is ErrorCode.IDENTITY_INVALID

    def test_a_ca_of_the_same_name_is_another_ca(self, crl: Path) -> None:
        one, other = Authority("same"), Authority("same")
        assert refused(other.issue(ALICE), crl, one.names(ALICE)) is ErrorCode.IDENTITY_INVALID

    @pytest.mark.parametrize(
        "uris",
        [(), (ALICE, BOB), (ALICE, ALICE), (ALICE + "/",), (ALICE.upper(),), ("https://example.org/user/alice",)],
        ids=["none", "two", "twice", "longer", "upper-case", "no-spiffe"],
    )
    def test_anything_but_exactly_that_one_uri_is_nobody(self, crl: Path, uris: tuple[str, ...]) -> None:
        authority = Authority()
        assert refused(authority.issue(*uris), crl, authority.names(ALICE)) is ErrorCode.IDENTITY_INVALID

    @pytest.mark.parametrize(
        "purpose", [None, ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]
    )
    def test_under_a_ca_the_purpose_must_be_clients(self, crl: Path, purpose: x509.ObjectIdentifier | None) -> None:
        authority = Authority()
        credential = authority.issue(ALICE, purpose=purpose)
        assert refused(credential, crl, authority.names(ALICE)) is ErrorCode.IDENTITY_INVALID

    def test_roles_of_several_principals_add_up(self, crl: Path) -> None:
        authority = Authority()
        alice = authority.issue(ALICE)
        named = (alice.pinned(KeepRole.OWNER), authority.names(ALICE, KeepRole.CALLER), authority.names(BOB))
        assert identify(alice, crl, *named).roles() == {KeepRole.OWNER, KeepRole.CALLER}

    @pytest.mark.parametrize("encoded", ["AAAA", "A" * 400])
    def test_a_spec_with_what_is_no_certificate_is_an_error(self, crl: Path, encoded: str) -> None:
        principal = Principal(roles=(KeepRole.OWNER,), certificate=encoded)
        with pytest.raises(PrincipalError, match=r"principals\[0\]"):
            Principals([principal], Revocations(crl))

    def test_a_spec_whose_ca_may_not_sign_is_an_error(self, crl: Path) -> None:
        leaf = base64.b64encode(self_signed().der).decode()
        principal = Principal(roles=(KeepRole.OWNER,), ca=leaf, spiffe_id=ALICE, crl=CrlPolicy.NONE)
        with pytest.raises(PrincipalError, match="may not sign"):
            Principals([principal], Revocations(crl))

    def test_a_ca_that_is_the_hosts_own_is_an_error_where_the_host_is_not_trusted(self, crl: Path) -> None:
        host, elsewhere = Authority(), Authority()
        distrusted = host.certificate.public_bytes(Encoding.DER)
        named = [self_signed().pinned(), elsewhere.names(BOB)]
        servers = Authority().certificate.public_bytes(Encoding.DER)
        Principals(named, Revocations(crl), distrusted=(distrusted, servers))
        for own in ((distrusted, servers), (servers, distrusted)):
            with pytest.raises(PrincipalError, match=r"principals\[2\]: `ca` is the host's own"):
                Principals([*named, host.names(ALICE)], Revocations(crl), distrusted=own)

    def test_another_certificate_of_the_hosts_key_is_no_better(self, crl: Path) -> None:
        host = Authority()
        distrusted = host.reissued().public_bytes(Encoding.DER)
        assert distrusted != host.certificate.public_bytes(Encoding.DER)
        with pytest.raises(PrincipalError, match="the host's own"):
            Principals([host.names(ALICE)], Revocations(crl), distrusted=[distrusted])

    @pytest.mark.parametrize("distrusted", [b"", b"no certificate"])
    def test_a_host_that_does_not_say_which_ca_is_its_own_is_an_error(self, crl: Path, distrusted: bytes) -> None:
        with pytest.raises(PrincipalError, match="does not say which CA is its own"):
            Principals([self_signed().pinned()], Revocations(crl), distrusted=[distrusted])

    def test_the_trust_store_is_the_specs_certificates_and_nothing_else(self, crl: Path) -> None:
        authority, pinned = Authority(), self_signed()
        named = [authority.names(ALICE), authority.names(BOB), pinned.pinned()]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_verify_locations(cadata=Principals(named, Revocations(crl)).anchors)
        assert context.cert_store_stats()["x509"] == 2


class TestRightsFromRequestToRequest:
    def test_a_client_that_is_revoked_meanwhile_is_refused(self, crl: Path) -> None:
        authority = Authority()
        alice = authority.issue(ALICE)
        crl.write_bytes(authority.revocations())
        client = identify(alice, crl, authority.names(ALICE, crl=CrlPolicy.REQUIRED))
        assert client.roles() == {KeepRole.OWNER}
        crl.write_bytes(authority.revocations([alice]))
        with pytest.raises(RefusalError) as refusal:
            client.roles()
        assert refusal.value.code is ErrorCode.CERTIFICATE_REVOKED
        crl.write_bytes(authority.revocations())
        assert client.roles() == {KeepRole.OWNER}

    @pytest.mark.parametrize("kind", ["missing", "expired", "early", "forged", "of another", "garbage"])
    def test_an_unusable_list_refuses(self, crl: Path, kind: str) -> None:
        authority, other = Authority(), Authority("other")
        match kind:
            case "expired":
                crl.write_bytes(authority.revocations(issued=now() - DAY, next_update=now() - MINUTE))
            case "early":
                crl.write_bytes(authority.revocations(issued=now() + MINUTE))
            case "forged":
                crl.write_bytes(authority.revocations(forger=other))
            case "of another":
                crl.write_bytes(other.revocations())
            case "garbage":
                crl.write_bytes(b"garbage")
        named = authority.names(ALICE, crl=CrlPolicy.REQUIRED)
        assert refused(authority.issue(ALICE), crl, named) is ErrorCode.CRL_UNUSABLE

    def test_a_forged_list_beside_the_right_one_revokes_nobody(self, crl: Path) -> None:
        authority = Authority()
        alice = authority.issue(ALICE)
        forged = authority.revocations([alice], issued=now() - DAY, forger=Authority())
        crl.write_bytes(forged + authority.revocations())
        named = authority.names(ALICE, crl=CrlPolicy.REQUIRED)
        assert identify(alice, crl, named).roles() == {KeepRole.OWNER}

    def test_who_needs_no_list_is_not_held_to_one(self, crl: Path) -> None:
        authority = Authority()
        alice = authority.issue(ALICE)
        crl.write_bytes(authority.revocations([alice]))
        assert identify(alice, crl, authority.names(ALICE)).roles() == {KeepRole.OWNER}

    def test_roles_that_need_a_list_go_with_it_and_the_others_stay(self, crl: Path) -> None:
        authority = Authority()
        alice = authority.issue(ALICE)
        named = (
            authority.names(ALICE, KeepRole.OWNER, crl=CrlPolicy.REQUIRED),
            authority.names(ALICE, KeepRole.AUDITOR),
        )
        client = identify(alice, crl, *named)
        assert client.roles() == {KeepRole.AUDITOR}
        crl.write_bytes(authority.revocations())
        assert client.roles() == {KeepRole.OWNER, KeepRole.AUDITOR}

    def test_a_certificate_that_expires_meanwhile_is_refused(self, crl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pinned = self_signed()
        client = identify(pinned, crl, pinned.pinned())
        assert client.roles() == {KeepRole.OWNER}
        later = pinned.certificate.not_valid_after_utc.timestamp() + 1
        monkeypatch.setattr(time, "time", lambda: later)
        with pytest.raises(RefusalError) as refusal:
            client.roles()
        assert refusal.value.code is ErrorCode.IDENTITY_INVALID

    def test_a_list_that_expires_meanwhile_is_judged_again(self, crl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        authority = Authority()
        crl.write_bytes(authority.revocations(next_update=now() + MINUTE))
        client = identify(authority.issue(ALICE), crl, authority.names(ALICE, crl=CrlPolicy.REQUIRED))
        client.roles()
        judged = []

        def judge(*given: Any) -> Rejection | None:
            judged.append(given)
            return verify_client(*given)

        monkeypatch.setattr("app_loader.principals.verify_client", judge)
        client.roles()
        assert not judged
        later = time.time() + 61
        monkeypatch.setattr(time, "time", lambda: later)
        client.roles()
        assert judged
