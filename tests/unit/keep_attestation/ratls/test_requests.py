"""Certification requests that carry evidence, as keeps of Enarx send them."""

from __future__ import annotations

from typing import Any

import pytest
from asn1crypto import core
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from keep_attestation.errors import MalformedEvidenceError
from keep_attestation.ratls.certificate import read_ratls_request
from keep_attestation.ratls.presentation import Convention
from tests.unit.keep_attestation.ratls.foreign import GOOD, KEY, failed_checks, judge


def make_request(key: Any, extensions: dict[str, bytes]) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "keep")])
    )
    for oid, value in extensions.items():
        builder = builder.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), critical=False)
    return builder.sign(key, hashes.SHA384()).public_bytes(serialization.Encoding.DER)


def test_a_request_must_be_signed_by_its_own_key() -> None:
    accept = frozenset({Convention.ENARX})
    key, extensions = GOOD[Convention.ENARX]
    request = make_request(key, extensions)
    assert judge(read_ratls_request(request, accept=accept), accept).accepted
    forged = bytearray(request)
    forged[-1] ^= 1
    peer = judge(read_ratls_request(bytes(forged), accept=accept), accept)
    assert failed_checks(peer) == ["ratls.signature"]


def test_requests_with_duplicate_extensions_or_of_no_form_are_refused() -> None:
    request = make_request(KEY, {"1.2.3.4": b"\x05\x00", "1.2.3.5": b"\x05\x00"})
    duplicate = request.replace(core.ObjectIdentifier("1.2.3.5").dump(), core.ObjectIdentifier("1.2.3.4").dump())
    with pytest.raises(MalformedEvidenceError, match="twice"):
        read_ratls_request(duplicate)
    for data in (b"", b"\x30\x00", request[:-1], request + b"\0", bytes(100_000)):
        with pytest.raises(MalformedEvidenceError):
            read_ratls_request(data)
