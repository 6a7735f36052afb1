"""Tests of `keep_client.identity`."""

from __future__ import annotations

import stat
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from keep_client import InvalidArgumentError
from keep_client.identity import check_spiffe_id, key_pem, new_key, request_pem, self_signed_pem, write_new
from keep_client.specs import spiffe_id_of
from tests.unit.keep_client.certificates import ALICE


def test_a_request_names_one_spiffe_id_and_proves_its_key() -> None:
    key = new_key()
    request = x509.load_pem_x509_csr(request_pem(key, ALICE))
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [ALICE]
    assert request.is_signature_valid
    assert request.public_key() == key.public_key()


def test_a_self_signed_certificate_is_for_clients_only() -> None:
    certificate = x509.load_pem_x509_certificate(self_signed_pem(new_key(), ALICE, lifetime=timedelta(days=2)))
    certificate.verify_directly_issued_by(certificate)
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert spiffe_id_of(certificate) == ALICE
    lifetime = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert lifetime == timedelta(days=2, minutes=5)


@pytest.mark.parametrize(
    "text",
    [
        "alice",
        "https://example.org/user/alice",
        "spiffe://example.org",
        "spiffe://example.org/",
        "spiffe://example.org/user/../alice",
        "spiffe://example.org//alice",
        "spiffe://Example.org/user/alice",
        "spiffe://example.org:1/user/alice",
        "spiffe://example.org/user/al ice",
        "spiffe://example.org/user/alice?x",
    ],
)
def test_an_id_that_is_not_canonical_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="not a SPIFFE id"):
        check_spiffe_id(text)


def test_a_key_is_private_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "alice.key"
    write_new(path, key_pem(new_key()), private=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    with pytest.raises(InvalidArgumentError, match="exists already"):
        write_new(path, key_pem(new_key()), private=True)
    assert path.read_bytes() == before
