"""RSA-OAEP, ECDH, AES key unwrap and AES-CBC by libcrypto, for keeps that others encrypt keys to."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import POINTER, byref, c_char_p, c_int, c_long, c_size_t, c_void_p
from typing import Any, Final

from app_loader.errors import LibcryptoError
from app_loader.libcrypto import Key, _checked, _decode, _encode, _function

AES_KEY_SIZE: Final = 32
AES_BLOCK_SIZE: Final = 16

_EVP_PKEY_RSA: Final = 6
_OAEP_PADDING: Final = 4
_WRAP_ALLOWED: Final = 0x1
_MAX_SECRET: Final = 66
"""Bytes of the largest secret that NIST's curves agree on."""
_P256_PREFIX: Final = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")
"""What stands before an uncompressed point of P-256 in a SubjectPublicKeyInfo (RFC 5480)."""
_POINT_SIZE: Final = 65

_pkey_ctx_new_id = _function("EVP_PKEY_CTX_new_id", c_void_p, c_int, c_void_p)
_pkey_ctx_new = _function("EVP_PKEY_CTX_new", c_void_p, c_void_p, c_void_p)
_pkey_ctx_free = _function("EVP_PKEY_CTX_free", None, c_void_p)
_pkey_keygen_init = _function("EVP_PKEY_keygen_init", c_int, c_void_p)
_set_rsa_bits = _function("EVP_PKEY_CTX_set_rsa_keygen_bits", c_int, c_void_p, c_int)
_pkey_generate = _function("EVP_PKEY_generate", c_int, c_void_p, POINTER(c_void_p))
_pkey_free = _function("EVP_PKEY_free", None, c_void_p)
_i2d_pubkey = _function("i2d_PUBKEY", c_int, c_void_p, POINTER(c_char_p))
_d2i_pubkey = _function("d2i_PUBKEY", c_void_p, c_void_p, POINTER(c_char_p), c_long)

_sha256 = _function("EVP_sha256", c_void_p)
_decrypt_init = _function("EVP_PKEY_decrypt_init", c_int, c_void_p)
_set_rsa_padding = _function("EVP_PKEY_CTX_set_rsa_padding", c_int, c_void_p, c_int)
_set_rsa_oaep_md = _function("EVP_PKEY_CTX_set_rsa_oaep_md", c_int, c_void_p, c_void_p)
_set_rsa_mgf1_md = _function("EVP_PKEY_CTX_set_rsa_mgf1_md", c_int, c_void_p, c_void_p)
_decrypt = _function("EVP_PKEY_decrypt", c_int, c_void_p, c_void_p, POINTER(c_size_t), c_char_p, c_size_t)
_derive_init = _function("EVP_PKEY_derive_init", c_int, c_void_p)
_derive_set_peer = _function("EVP_PKEY_derive_set_peer", c_int, c_void_p, c_void_p)
_derive = _function("EVP_PKEY_derive", c_int, c_void_p, c_void_p, POINTER(c_size_t))

_cipher_ctx_new = _function("EVP_CIPHER_CTX_new", c_void_p)
_cipher_ctx_free = _function("EVP_CIPHER_CTX_free", None, c_void_p)
_cipher_ctx_set_flags = _function("EVP_CIPHER_CTX_set_flags", None, c_void_p, c_int)
_aes_256_wrap = _function("EVP_aes_256_wrap", c_void_p)
_aes_256_cbc = _function("EVP_aes_256_cbc", c_void_p)
_cipher_init = _function("EVP_DecryptInit_ex", c_int, c_void_p, c_void_p, c_void_p, c_char_p, c_char_p)
_cipher_update = _function("EVP_DecryptUpdate", c_int, c_void_p, c_void_p, POINTER(c_int), c_char_p, c_int)
_cipher_final = _function("EVP_DecryptFinal_ex", c_int, c_void_p, c_void_p, POINTER(c_int))
_cleanse = _function("OPENSSL_cleanse", None, c_void_p, c_size_t)


class RsaKey:
    """A new RSA private key in OpenSSL's memory, for what others encrypt to it by RSAES-OAEP with SHA-256."""

    def __init__(self, bits: int) -> None:
        self._pointer = c_void_p()
        context = _checked(_pkey_ctx_new_id(_EVP_PKEY_RSA, None), "EVP_PKEY_CTX_new_id")
        try:
            _checked(_pkey_keygen_init(context), "EVP_PKEY_keygen_init")
            _checked(_set_rsa_bits(context, bits), "EVP_PKEY_CTX_set_rsa_keygen_bits")
            _checked(_pkey_generate(context, byref(self._pointer)), "EVP_PKEY_generate")
        finally:
            _pkey_ctx_free(context)

    def __del__(self) -> None:
        _pkey_free(self._pointer)

    def public(self) -> bytes:
        """The SubjectPublicKeyInfo in DER."""
        return _encode(_i2d_pubkey, self._pointer, "i2d_PUBKEY")

    def decrypt(self, ciphertext: bytes) -> bytearray:
        """What was encrypted to this key. Raises `LibcryptoError`."""

        def work(context: int) -> bytearray:
            _checked(_decrypt_init(context), "EVP_PKEY_decrypt_init")
            _checked(_set_rsa_padding(context, _OAEP_PADDING), "EVP_PKEY_CTX_set_rsa_padding")
            _checked(_set_rsa_oaep_md(context, _sha256()), "EVP_PKEY_CTX_set_rsa_oaep_md")
            _checked(_set_rsa_mgf1_md(context, _sha256()), "EVP_PKEY_CTX_set_rsa_mgf1_md")
            size = c_size_t()
            _checked(_decrypt(context, None, byref(size), ciphertext, len(ciphertext)), "EVP_PKEY_decrypt")
            with _SecretBuffer(size.value) as buffer:
                _checked(
                    _decrypt(context, buffer.pointer, byref(size), ciphertext, len(ciphertext)), "EVP_PKEY_decrypt"
                )
                return buffer.first(size.value)

        return _with_key(self._pointer, work)


class AgreementKey(Key):
    """A new P-256 private key in OpenSSL's memory, for ECDH."""

    def point(self) -> bytes:
        """The public key as an uncompressed point: 65 bytes."""
        return self.public()[-_POINT_SIZE:]

    def agree(self, point: bytes) -> bytearray:
        """The secret shared with whoever has the key of this uncompressed point. Raises `LibcryptoError`."""
        if len(point) != _POINT_SIZE:
            raise LibcryptoError(f"an uncompressed point of P-256 has {_POINT_SIZE} bytes, not {len(point)}")
        # Fails for a point that is not on the curve.
        peer = _decode(_d2i_pubkey, _P256_PREFIX + point, "public key")

        def work(context: int) -> bytearray:
            _checked(_derive_init(context), "EVP_PKEY_derive_init")
            _checked(_derive_set_peer(context, peer), "EVP_PKEY_derive_set_peer")
            size = c_size_t(_MAX_SECRET)
            with _SecretBuffer(_MAX_SECRET) as buffer:
                _checked(_derive(context, buffer.pointer, byref(size)), "EVP_PKEY_derive")
                return buffer.first(size.value)

        try:
            return _with_key(self._pointer, work)
        finally:
            _pkey_free(peer)


def unwrap_aes_256(key: bytes, wrapped: bytes) -> bytearray:
    """The key that was wrapped with `key` (RFC 3394). Raises `LibcryptoError`."""
    return _decipher(_aes_256_wrap(), key, None, wrapped, flags=_WRAP_ALLOWED)


def decrypt_aes_256_cbc(key: bytes, vector: bytes, ciphertext: bytes) -> bytearray:
    """AES-256-CBC without its PKCS #7 padding. Raises `LibcryptoError`."""
    if len(vector) != AES_BLOCK_SIZE:
        raise LibcryptoError(f"AES-CBC takes an initialization vector of {AES_BLOCK_SIZE} bytes, not {len(vector)}")
    return _decipher(_aes_256_cbc(), key, vector, ciphertext)


def _decipher(cipher: int, key: bytes, vector: bytes | None, ciphertext: bytes, flags: int = 0) -> bytearray:
    if len(key) != AES_KEY_SIZE:
        raise LibcryptoError(f"AES-256 takes a key of {AES_KEY_SIZE} bytes, not {len(key)}")
    context = _checked(_cipher_ctx_new(), "EVP_CIPHER_CTX_new")
    try:
        _cipher_ctx_set_flags(context, flags)
        _checked(_cipher_init(context, cipher, None, key, vector), "EVP_DecryptInit_ex")
        written, rest = c_int(), c_int()
        with _SecretBuffer(len(ciphertext) + AES_BLOCK_SIZE) as buffer:
            _checked(
                _cipher_update(context, buffer.pointer, byref(written), ciphertext, len(ciphertext)),
                "EVP_DecryptUpdate",
            )
            _checked(_cipher_final(context, buffer.pointer + written.value, byref(rest)), "EVP_DecryptFinal_ex")
            return buffer.first(written.value + rest.value)
    finally:
        _cipher_ctx_free(context)


def _with_key(key: c_void_p, work: Callable[[int], bytearray]) -> bytearray:
    context = _checked(_pkey_ctx_new(key, None), "EVP_PKEY_CTX_new")
    try:
        return work(context)
    finally:
        _pkey_ctx_free(context)


class _SecretBuffer:
    """Memory for something secret, overwritten when it is left."""

    def __init__(self, size: int) -> None:
        self._buffer = ctypes.create_string_buffer(size)
        self.pointer = ctypes.addressof(self._buffer)

    def __enter__(self) -> _SecretBuffer:
        return self

    def __exit__(self, *_: Any) -> None:
        _cleanse(self.pointer, len(self._buffer))

    def first(self, size: int) -> bytearray:
        """A copy of so many bytes, in memory that its owner can overwrite."""
        return bytearray(memoryview(self._buffer).cast("B")[:size])
