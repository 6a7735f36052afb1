"""AES-256-GCM and HKDF by ctypes, against published vectors and another implementation."""

from __future__ import annotations

import os
import ssl

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from app_loader.errors import LibcryptoError
from app_loader.libcrypto_aead import TAG_SIZE, AuthenticationError, decrypt, encrypt, encrypt_in_place, hkdf_sha256

KEY, NONCE = bytes(range(32)), bytes(range(12))


@pytest.mark.parametrize(
    ("salt", "info", "derived"),
    [
        (
            bytes(range(13)),
            bytes(range(0xF0, 0xFA)),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (b"", b"", "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"),
    ],
)
def test_keys_are_derived_as_in_the_test_cases_1_and_3_of_rfc_5869(salt: bytes, info: bytes, derived: str) -> None:
    assert hkdf_sha256(b"\x0b" * 22, salt=salt, info=info, size=42).hex() == derived


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 70_000])
@pytest.mark.parametrize("authenticated", [b"", b"header"])
def test_another_implementation_encrypts_the_same(size: int, authenticated: bytes) -> None:
    plaintext = os.urandom(size)
    ciphertext = encrypt(KEY, NONCE, plaintext, authenticated)
    assert ciphertext == AESGCM(KEY).encrypt(NONCE, plaintext, authenticated)
    assert decrypt(KEY, NONCE, ciphertext, authenticated) == plaintext


def test_a_part_of_a_buffer_is_encrypted_where_it_lies() -> None:
    buffer = bytearray(b"plaintext" + bytes(TAG_SIZE) + b"rest")
    encrypt_in_place(KEY, NONCE, buffer, 9, b"header")
    assert buffer == AESGCM(KEY).encrypt(NONCE, b"plaintext", b"header") + b"rest"


@pytest.mark.parametrize("size", [-1, 21, 1 << 40])
def test_a_buffer_without_room_for_the_tag_is_refused_and_left_as_it_was(size: int) -> None:
    buffer = bytearray(36)
    with pytest.raises(LibcryptoError, match="no room"):
        encrypt_in_place(KEY, NONCE, buffer, size, b"")
    assert buffer == bytes(36)


def test_nothing_comes_out_of_what_is_not_authentic() -> None:
    ciphertext = encrypt(KEY, NONCE, b"plaintext", b"header")
    forged = [ciphertext[:index] + bytes([ciphertext[index] ^ 1]) + ciphertext[index + 1 :] for index in range(25)]
    for wrong in (*forged, ciphertext[:-1], ciphertext + b"x", b"", ciphertext[:15]):
        with pytest.raises(AuthenticationError):
            decrypt(KEY, NONCE, wrong, b"header")
    for key, nonce, authenticated in ((bytes(32), NONCE, b"header"), (KEY, bytes(12), b"header"), (KEY, NONCE, b"")):
        with pytest.raises(AuthenticationError):
            decrypt(key, nonce, ciphertext, authenticated)


@pytest.mark.parametrize(("key", "nonce"), [(bytes(16), NONCE), (KEY, bytes(8))])
def test_keys_and_nonces_of_other_sizes_are_refused(key: bytes, nonce: bytes) -> None:
    with pytest.raises(LibcryptoError):
        encrypt(key, nonce, b"", b"")
    with pytest.raises(LibcryptoError):
        decrypt(key, nonce, bytes(16), b"")


def test_a_failure_leaves_nothing_in_the_error_queue_that_tls_would_stumble_over() -> None:
    with pytest.raises(AuthenticationError):
        decrypt(KEY, NONCE, bytes(32), b"")
    with pytest.raises(ssl.SSLError, match=r"(?i)start.line|not enough data"):
        ssl.create_default_context(cadata="nothing")
