"""AES-256-GCM of the libcrypto that `app_loader.libcrypto` has found, and HKDF-SHA256; for keeps that seal."""

from __future__ import annotations

import ctypes
import hmac
from collections.abc import Callable
from ctypes import POINTER, byref, c_char_p, c_int, c_void_p
from typing import Final, TypeVar

from app_loader.errors import LibcryptoError
from app_loader.libcrypto import _checked, _function

KEY_SIZE: Final = 32
NONCE_SIZE: Final = 12
TAG_SIZE: Final = 16

_GET_TAG: Final = 0x10
_SET_TAG: Final = 0x11
_SHA256_SIZE: Final = 32

_T = TypeVar("_T")

_cipher_ctx_new = _function("EVP_CIPHER_CTX_new", c_void_p)
_cipher_ctx_free = _function("EVP_CIPHER_CTX_free", None, c_void_p)
_cipher_ctx_ctrl = _function("EVP_CIPHER_CTX_ctrl", c_int, c_void_p, c_int, c_int, c_void_p)
_aes_256_gcm = _function("EVP_aes_256_gcm", c_void_p)
_encrypt_init = _function("EVP_EncryptInit_ex", c_int, c_void_p, c_void_p, c_void_p, c_char_p, c_char_p)
_decrypt_init = _function("EVP_DecryptInit_ex", c_int, c_void_p, c_void_p, c_void_p, c_char_p, c_char_p)
_encrypt_update = _function("EVP_EncryptUpdate", c_int, c_void_p, c_void_p, POINTER(c_int), c_char_p, c_int)
_decrypt_update = _function("EVP_DecryptUpdate", c_int, c_void_p, c_void_p, POINTER(c_int), c_char_p, c_int)
_encrypt_final = _function("EVP_EncryptFinal_ex", c_int, c_void_p, c_void_p, POINTER(c_int))
_decrypt_final = _function("EVP_DecryptFinal_ex", c_int, c_void_p, c_void_p, POINTER(c_int))
_err_clear_error = _function("ERR_clear_error", None)


class AuthenticationError(LibcryptoError):
    """A tag does not fit: another key, another nonce, or anything that was changed."""


def hkdf_sha256(key: bytes, *, salt: bytes, info: bytes, size: int = KEY_SIZE) -> bytes:
    """`size` bytes by extract and expand, RFC 5869.

    By HMAC: to look up HKDF in OpenSSL, as every derivation would have to, takes longer than to derive the key.
    """
    pseudorandom = hmac.digest(salt, key, "sha256")
    derived = block = b""
    for number in range(1, -(-size // _SHA256_SIZE) + 1):
        block = hmac.digest(pseudorandom, block + info + bytes([number]), "sha256")
        derived += block
    return derived[:size]


def encrypt(key: bytes, nonce: bytes, plaintext: bytes, authenticated: bytes) -> bytes:
    """AES-256-GCM (NIST SP 800-38D): the ciphertext and behind it the tag of 16 bytes."""
    buffer = bytearray(len(plaintext) + TAG_SIZE)
    buffer[: len(plaintext)] = plaintext
    encrypt_in_place(key, nonce, buffer, len(plaintext), authenticated)
    return bytes(buffer)


def encrypt_in_place(key: bytes, nonce: bytes, buffer: bytearray, size: int, authenticated: bytes) -> None:
    """As `encrypt`, of the first `size` bytes of `buffer`, which has room for the tag behind them."""
    if not 0 <= size <= len(buffer) - TAG_SIZE:
        raise LibcryptoError(f"a buffer of {len(buffer)} bytes has no room for {size} and a tag")
    content = (ctypes.c_char * len(buffer)).from_buffer(buffer)

    def work(context: int) -> None:
        _checked(_encrypt_init(context, _aes_256_gcm(), None, key, nonce), "EVP_EncryptInit_ex")
        moved = c_int()
        _checked(_encrypt_update(context, None, byref(moved), authenticated, len(authenticated)), "EVP_EncryptUpdate")
        _checked(_encrypt_update(context, content, byref(moved), content, size), "EVP_EncryptUpdate")
        # GCM is a stream: there is nothing left to come, but only this completes the tag.
        _checked(_encrypt_final(context, ctypes.create_string_buffer(TAG_SIZE), byref(moved)), "EVP_EncryptFinal_ex")
        _checked(_cipher_ctx_ctrl(context, _GET_TAG, TAG_SIZE, ctypes.addressof(content) + size), "EVP_CIPHER_CTX_ctrl")

    _with_context(key, nonce, work)


def decrypt(key: bytes, nonce: bytes, ciphertext: bytes, authenticated: bytes) -> bytes:
    """What `encrypt` was given. Raises `AuthenticationError`, and gives nothing that is not authentic."""
    if len(ciphertext) < TAG_SIZE:
        raise AuthenticationError(f"there are {len(ciphertext)} bytes, and a tag alone has {TAG_SIZE}")
    content, tag = ciphertext[:-TAG_SIZE], ctypes.create_string_buffer(ciphertext[-TAG_SIZE:], TAG_SIZE)

    def work(context: int) -> bytes:
        _checked(_decrypt_init(context, _aes_256_gcm(), None, key, nonce), "EVP_DecryptInit_ex")
        moved = c_int()
        _checked(_decrypt_update(context, None, byref(moved), authenticated, len(authenticated)), "EVP_DecryptUpdate")
        plaintext = ctypes.create_string_buffer(max(1, len(content)))
        _checked(_decrypt_update(context, plaintext, byref(moved), content, len(content)), "EVP_DecryptUpdate")
        _checked(_cipher_ctx_ctrl(context, _SET_TAG, TAG_SIZE, ctypes.addressof(tag)), "EVP_CIPHER_CTX_ctrl")
        if _decrypt_final(context, ctypes.create_string_buffer(TAG_SIZE), byref(moved)) != 1:
            _err_clear_error()
            raise AuthenticationError("the tag does not fit")
        return plaintext.raw[: len(content)]

    return _with_context(key, nonce, work)


def _with_context(key: bytes, nonce: bytes, work: Callable[[int], _T]) -> _T:
    if len(key) != KEY_SIZE or len(nonce) != NONCE_SIZE:
        raise LibcryptoError(f"AES-256-GCM takes a key of {KEY_SIZE} bytes and a nonce of {NONCE_SIZE}")
    context = _checked(_cipher_ctx_new(), "EVP_CIPHER_CTX_new")
    try:
        return work(context)
    finally:
        _cipher_ctx_free(context)
