"""The CMS of AWS KMS: real replies are parsed, OpenSSL's decrypt, and every other form is refused by name."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from asn1crypto import cms
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from keep_attestation.key_release.cms import decrypt_enveloped_key, parse_enveloped_key
from keep_attestation.key_release.errors import MalformedReplyError
from tests.unit.keep_attestation.key_release.envelopes import OAEP, envelop

KEY = rsa.generate_private_key(65537, 2048)
SECRET = bytes(range(32))


@pytest.fixture(scope="module")
def envelope(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return envelop(tmp_path_factory.mktemp("cms"), KEY.public_key(), SECRET)


def test_real_replies_of_kms_are_parsed(vectors: Path) -> None:
    seen = 0
    for folder in sorted(path.parent for path in vectors.glob("kms/*/expected.json")):
        expected = json.loads((folder / "expected.json").read_text())
        parsed = parse_enveloped_key((folder / "ciphertext_for_recipient.ber").read_bytes())
        assert parsed.encrypted_key.hex() == expected["encrypted_key"]
        assert parsed.initialization_vector.hex() == expected["iv"]
        assert parsed.ciphertext.hex() == expected["ciphertext"]
        assert len(parsed.recipient) == 32
        seen += 1
    assert seen


def test_real_replies_are_refused_truncated_and_with_trailing_bytes(vectors: Path) -> None:
    for path in vectors.glob("kms/*/ciphertext_for_recipient.ber"):
        data = path.read_bytes()
        for size in range(0, len(data), 5):
            with pytest.raises(MalformedReplyError):
                parse_enveloped_key(data[:size])
        with pytest.raises(MalformedReplyError):
            parse_enveloped_key(data + b"\0")


def test_a_real_reply_for_another_key_cannot_be_decrypted(vectors: Path) -> None:
    data = (vectors / "kms/input_ber/ciphertext_for_recipient.ber").read_bytes()
    with pytest.raises(MalformedReplyError, match="cannot be decrypted"):
        decrypt_enveloped_key(data, KEY)


def test_what_openssl_envelops_is_decrypted(envelope: bytes) -> None:
    assert envelope[:2] == b"\x30\x80", "indefinite length, as KMS writes it"
    assert decrypt_enveloped_key(envelope, KEY) == SECRET


def test_the_same_in_der_is_decrypted(envelope: bytes) -> None:
    message = cms.ContentInfo.load(envelope)
    assert decrypt_enveloped_key(message.dump(force=True), KEY) == SECRET


def test_the_key_of_somebody_else_does_not_decrypt(envelope: bytes) -> None:
    with pytest.raises(MalformedReplyError, match="cannot be decrypted"):
        decrypt_enveloped_key(envelope, rsa.generate_private_key(65537, 2048))


def test_a_changed_key_or_a_changed_last_block_cannot_be_decrypted(envelope: bytes) -> None:
    parsed = parse_enveloped_key(envelope)
    for part in (parsed.encrypted_key, parsed.ciphertext[-16:]):
        changed = envelope.replace(part, bytes([part[0] ^ 1]) + part[1:])
        with contextlib.suppress(MalformedReplyError):
            # CBC has no integrity: a changed block may decrypt to other bytes, but never to these.
            assert decrypt_enveloped_key(changed, KEY) != SECRET


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"options": ()}, "rsaes_pkcs1v15"),
        ({"options": ("rsa_padding_mode:oaep",)}, "another hash"),
        ({"options": (*OAEP[:2], "rsa_mgf1_md:sha1")}, "another hash"),
        ({"options": (*OAEP, "rsa_oaep_label:00ff")}, "label"),
        ({"cipher": "aes-128-cbc"}, "aes128_cbc"),
        ({"cipher": "des3"}, "tripledes_3key"),
        ({"by_identifier": False}, "subject key identifier"),
        ({"recipients": 2}, "2 recipients"),
    ],
)
def test_other_algorithms_and_recipients_are_refused_by_name(
    tmp_path: Path, options: dict[str, Any], named: str
) -> None:
    # Row 19.
    with pytest.raises(MalformedReplyError, match=named):
        parse_enveloped_key(envelop(tmp_path, KEY.public_key(), SECRET, **options))


def changed_envelope(envelope: bytes, **changes: Any) -> bytes:
    message = cms.ContentInfo.load(envelope)
    content = message["content"]["encrypted_content_info"]
    if "ciphertext" in changes:
        content["encrypted_content"] = changes["ciphertext"]
    if "vector" in changes:
        content["content_encryption_algorithm"]["parameters"] = changes["vector"]
    dumped: bytes = message.dump(force=True)
    return dumped


@pytest.mark.parametrize("changes", [{"ciphertext": b""}, {"ciphertext": bytes(17)}, {"vector": bytes(8)}])
def test_parts_of_impossible_size_are_refused(envelope: bytes, changes: dict[str, bytes]) -> None:
    with pytest.raises(MalformedReplyError):
        parse_enveloped_key(changed_envelope(envelope, **changes))


def test_other_content_is_refused_by_name() -> None:
    signed = cms.ContentInfo({"content_type": "data", "content": b"the key"})
    with pytest.raises(MalformedReplyError, match="holds data"):
        parse_enveloped_key(signed.dump())
    with pytest.raises(MalformedReplyError, match="at most"):
        parse_enveloped_key(bytes(64 * 1024 + 1))


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.binary(max_size=100), st.integers(0, 500))
def test_nothing_but_our_own_errors_comes_out_of_arbitrary_bytes(envelope: bytes, data: bytes, cut: int) -> None:
    for message in (data, envelope[:cut] + data + envelope[cut + len(data) :]):
        with contextlib.suppress(MalformedReplyError):
            parse_enveloped_key(message)
