"""The CMS of AWS KMS inside a keep: real replies are read, OpenSSL's are opened, every other form is refused."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from asn1crypto import cms
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key
from hypothesis import given, settings
from hypothesis import strategies as st

from app_loader.key_release.cms import decrypt_enveloped_key, parse_enveloped_key
from app_loader.key_release.errors import MalformedReplyError
from app_loader.libcrypto_recipient import RsaKey
from tests.unit.app_loader.attesters.vectors import vector
from tests.unit.keep_attestation.key_release.envelopes import OAEP, envelop

SECRET = bytes(range(32))
SAMPLES = ("input_ber", "input_ber_w_ctx")


@pytest.fixture(scope="module")
def key() -> RsaKey:
    return RsaKey(2048)


def public(key: RsaKey) -> rsa.RSAPublicKey:
    loaded = load_der_public_key(key.public())
    assert isinstance(loaded, rsa.RSAPublicKey)
    return loaded


@pytest.fixture(scope="module")
def envelope(key: RsaKey, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return envelop(tmp_path_factory.mktemp("cms"), public(key), SECRET)


@pytest.mark.parametrize("sample", SAMPLES)
def test_real_replies_of_kms_are_read(sample: str) -> None:
    expected = json.loads(vector(f"kms/{sample}/expected.json"))
    parsed = parse_enveloped_key(vector(f"kms/{sample}/ciphertext_for_recipient.ber"))
    assert parsed.encrypted_key.hex() == expected["encrypted_key"]
    assert parsed.initialization_vector.hex() == expected["iv"]
    assert parsed.ciphertext.hex() == expected["ciphertext"]
    assert len(parsed.recipient) == 32


@pytest.mark.parametrize("sample", SAMPLES)
def test_real_replies_are_refused_truncated_with_trailing_bytes_and_by_another_key(sample: str, key: RsaKey) -> None:
    data = vector(f"kms/{sample}/ciphertext_for_recipient.ber")
    for size in range(len(data)):
        with pytest.raises(MalformedReplyError):
            parse_enveloped_key(data[:size])
    with pytest.raises(MalformedReplyError, match="after the end"):
        parse_enveloped_key(data + b"\0")
    with pytest.raises(MalformedReplyError, match="cannot be decrypted"):
        decrypt_enveloped_key(data, key)


def test_what_openssl_envelops_is_opened_in_ber_and_in_der(envelope: bytes, key: RsaKey) -> None:
    assert envelope[:2] == b"\x30\x80", "indefinite length, as KMS writes it"
    assert decrypt_enveloped_key(envelope, key) == SECRET
    der = cms.ContentInfo.load(envelope).dump(force=True)
    assert der[:2] != b"\x30\x80"
    assert decrypt_enveloped_key(der, key) == SECRET


@pytest.mark.parametrize("size", [0, 15, 16, 17, 4096])
def test_values_of_every_size_are_unpadded(size: int, key: RsaKey, tmp_path: Path) -> None:
    assert decrypt_enveloped_key(envelop(tmp_path, public(key), bytes(size)), key) == bytes(size)


def test_the_key_of_another_fetch_opens_nothing(envelope: bytes) -> None:
    with pytest.raises(MalformedReplyError, match="cannot be decrypted"):
        decrypt_enveloped_key(envelope, RsaKey(2048))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"options": ()}, "not transported with RSAES-OAEP"),
        ({"options": ("rsa_padding_mode:oaep",)}, "another hash"),
        ({"options": (*OAEP[:2], "rsa_mgf1_md:sha1")}, "another hash"),
        ({"options": (*OAEP, "rsa_oaep_label:00ff")}, "label"),
        ({"cipher": "aes-128-cbc"}, "not encrypted with AES-256-CBC"),
        ({"cipher": "des3"}, "not encrypted with AES-256-CBC"),
        ({"by_identifier": False}, "version|identifier"),
        ({"recipients": 2}, "2 parts"),
    ],
)
def test_other_algorithms_and_recipients_are_refused(
    key: RsaKey, tmp_path: Path, options: dict[str, Any], named: str
) -> None:
    with pytest.raises(MalformedReplyError, match=named):
        parse_enveloped_key(envelop(tmp_path, public(key), SECRET, **options))


def test_other_content_is_refused() -> None:
    with pytest.raises(MalformedReplyError, match="no CMS EnvelopedData"):
        parse_enveloped_key(cms.ContentInfo({"content_type": "data", "content": b"the key"}).dump())


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.integers(0, 600), st.integers(1, 255))
def test_no_changed_byte_gives_the_secret_of_somebody_else_or_another_error(
    envelope: bytes, key: RsaKey, place: int, change: int
) -> None:
    changed = bytearray(envelope)
    changed[place % len(changed)] ^= change
    with contextlib.suppress(MalformedReplyError):
        decrypt_enveloped_key(bytes(changed), key)
