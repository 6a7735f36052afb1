"""The libcrypto that `_ssl` has loaded anyway, by ctypes: a key, signatures, and checks of client certificates.

Importing `cryptography` for this would cost every keep 35 to 90 ms and some MiB.
"""

from __future__ import annotations

import _ssl
import ctypes
import time
from collections.abc import Iterable
from ctypes import POINTER, byref, c_char_p, c_int, c_long, c_size_t, c_uint32, c_ulong, c_void_p
from typing import Any, Final

from app_loader.errors import LibcryptoError

_EVP_PKEY_EC: Final = 408
_EVP_PKEY_ED25519: Final = 1087
_X509_PURPOSE_SSL_CLIENT: Final = 1
_X509_V_FLAG_CRL_CHECK: Final = 0x4
_X509_V_FLAG_X509_STRICT: Final = 0x20
_X509_V_FLAG_PARTIAL_CHAIN: Final = 0x80000
_XKU_SSL_CLIENT: Final = 0x2
_XKU_ABSENT: Final = 0xFFFFFFFF

# x509_vfy.h; what X509_verify_cert says when the list, not the certificate, is at fault.
_CERTIFICATE_HAS_EXPIRED: Final = 10
_CERTIFICATE_REVOKED: Final = 23
_LIST_FAULTS: Final = frozenset({3, 5, 8, 11, 12, 15, 16, 33, 35, 36, 44, 54})


def _load() -> ctypes.CDLL:
    # dlsym on the extension module finds what that module was linked with, wherever it is installed.
    path = getattr(_ssl, "__file__", None)
    return ctypes.CDLL(path)


_library = _load()


def _function(name: str, result: Any, *arguments: Any) -> Any:
    try:
        function = getattr(_library, name)
    except AttributeError:
        raise LibcryptoError(f"libcrypto has no {name}: OpenSSL 3.0 or newer is needed") from None
    function.restype = result
    function.argtypes = arguments
    return function


_err_get_error = _function("ERR_get_error", c_ulong)
_err_error_string_n = _function("ERR_error_string_n", None, c_ulong, c_char_p, c_size_t)
_err_clear_error = _function("ERR_clear_error", None)

_pkey_ctx_new_id = _function("EVP_PKEY_CTX_new_id", c_void_p, c_int, c_void_p)
_pkey_ctx_free = _function("EVP_PKEY_CTX_free", None, c_void_p)
_pkey_keygen_init = _function("EVP_PKEY_keygen_init", c_int, c_void_p)
_pkey_ctx_set_group_name = _function("EVP_PKEY_CTX_set_group_name", c_int, c_void_p, c_char_p)
_pkey_generate = _function("EVP_PKEY_generate", c_int, c_void_p, POINTER(c_void_p))
_pkey_new_raw_private_key = _function("EVP_PKEY_new_raw_private_key", c_void_p, c_int, c_void_p, c_char_p, c_size_t)
_pkey_free = _function("EVP_PKEY_free", None, c_void_p)
_i2d_pubkey = _function("i2d_PUBKEY", c_int, c_void_p, POINTER(c_char_p))

_md_ctx_new = _function("EVP_MD_CTX_new", c_void_p)
_md_ctx_free = _function("EVP_MD_CTX_free", None, c_void_p)
_sha256 = _function("EVP_sha256", c_void_p)
_sign_init = _function("EVP_DigestSignInit", c_int, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p)
_sign = _function("EVP_DigestSign", c_int, c_void_p, c_char_p, POINTER(c_size_t), c_char_p, c_size_t)

_bio_new_fd = _function("BIO_new_fd", c_void_p, c_int, c_int)
_bio_free = _function("BIO_free", c_int, c_void_p)
_pem_write_private_key = _function(
    "PEM_write_bio_PrivateKey", c_int, c_void_p, c_void_p, c_void_p, c_void_p, c_int, c_void_p, c_void_p
)

_d2i_x509 = _function("d2i_X509", c_void_p, c_void_p, POINTER(c_char_p), c_long)
_x509_free = _function("X509_free", None, c_void_p)
_x509_check_ca = _function("X509_check_ca", c_int, c_void_p)
_x509_public_key = _function("X509_get_X509_PUBKEY", c_void_p, c_void_p)
_i2d_x509_public_key = _function("i2d_X509_PUBKEY", c_int, c_void_p, POINTER(c_char_p))
_x509_subject = _function("X509_get_subject_name", c_void_p, c_void_p)
_x509_not_after = _function("X509_get0_notAfter", c_void_p, c_void_p)
_x509_extended_key_usage = _function("X509_get_extended_key_usage", c_uint32, c_void_p)
_x509_name_cmp = _function("X509_NAME_cmp", c_int, c_void_p, c_void_p)
_asn1_time_diff = _function("ASN1_TIME_diff", c_int, POINTER(c_int), POINTER(c_int), c_void_p, c_void_p)

_d2i_crl = _function("d2i_X509_CRL", c_void_p, c_void_p, POINTER(c_char_p), c_long)
_crl_free = _function("X509_CRL_free", None, c_void_p)
_crl_issuer = _function("X509_CRL_get_issuer", c_void_p, c_void_p)
_crl_next_update = _function("X509_CRL_get0_nextUpdate", c_void_p, c_void_p)

_store_new = _function("X509_STORE_new", c_void_p)
_store_free = _function("X509_STORE_free", None, c_void_p)
_store_add_cert = _function("X509_STORE_add_cert", c_int, c_void_p, c_void_p)
_store_add_crl = _function("X509_STORE_add_crl", c_int, c_void_p, c_void_p)
_store_set_flags = _function("X509_STORE_set_flags", c_int, c_void_p, c_ulong)
_store_set_purpose = _function("X509_STORE_set_purpose", c_int, c_void_p, c_int)
_store_ctx_new = _function("X509_STORE_CTX_new", c_void_p)
_store_ctx_free = _function("X509_STORE_CTX_free", None, c_void_p)
_store_ctx_init = _function("X509_STORE_CTX_init", c_int, c_void_p, c_void_p, c_void_p, c_void_p)
_store_ctx_error = _function("X509_STORE_CTX_get_error", c_int, c_void_p)
_verify_cert = _function("X509_verify_cert", c_int, c_void_p)
_verify_error_string = _function("X509_verify_cert_error_string", c_char_p, c_long)


def _checked(result: int | None, what: str) -> int:
    """`result` when OpenSSL reports success (a positive number, a pointer). Raises `LibcryptoError`.

    The error queue belongs to the thread and `_ssl` reads it too: it is always left empty.
    """
    if result is not None and result > 0:
        return result
    text = ctypes.create_string_buffer(256)
    _err_error_string_n(_err_get_error(), text, len(text))
    _err_clear_error()
    raise LibcryptoError(f"{what}: {text.value.decode(errors='replace')}")


class Key:
    """A new P-256 private key in OpenSSL's memory: nothing of it ever becomes a Python object."""

    def __init__(self) -> None:
        self._pointer = c_void_p()
        context = _checked(_pkey_ctx_new_id(_EVP_PKEY_EC, None), "EVP_PKEY_CTX_new_id")
        try:
            _checked(_pkey_keygen_init(context), "EVP_PKEY_keygen_init")
            _checked(_pkey_ctx_set_group_name(context, b"P-256"), "EVP_PKEY_CTX_set_group_name")
            _checked(_pkey_generate(context, byref(self._pointer)), "EVP_PKEY_generate")
        finally:
            _pkey_ctx_free(context)

    def __del__(self) -> None:
        _pkey_free(self._pointer)

    def public(self) -> bytes:
        """The SubjectPublicKeyInfo in DER."""
        return _encode(_i2d_pubkey, self._pointer, "i2d_PUBKEY")

    def sign(self, message: bytes) -> bytes:
        """ECDSA with SHA-256, in DER."""
        return _signature(self._pointer, _sha256(), message)

    def write_pem(self, descriptor: int) -> None:
        """Write the private key as PKCS#8 PEM to `descriptor`, straight from OpenSSL's memory."""
        bio = _checked(_bio_new_fd(descriptor, 0), "BIO_new_fd")
        try:
            _checked(_pem_write_private_key(bio, self._pointer, None, None, 0, None, None), "PEM_write_bio_PrivateKey")
        finally:
            _bio_free(bio)


def sign_ed25519(private_key: bytes, message: bytes) -> bytes:
    """The 64 bytes of an Ed25519 signature (RFC 8032) with a raw private key. For keys that are no secret."""
    raw_key = _pkey_new_raw_private_key(_EVP_PKEY_ED25519, None, private_key, len(private_key))
    key = _checked(raw_key, "EVP_PKEY_new_raw_private_key")
    try:
        return _signature(key, None, message)
    finally:
        _pkey_free(key)


def _signature(key: Any, digest: Any, message: bytes) -> bytes:
    context = _checked(_md_ctx_new(), "EVP_MD_CTX_new")
    try:
        _checked(_sign_init(context, None, digest, None, key), "EVP_DigestSignInit")
        size = c_size_t(128)
        buffer = ctypes.create_string_buffer(size.value)
        _checked(_sign(context, buffer, byref(size), message, len(message)), "EVP_DigestSign")
        return buffer.raw[: size.value]
    finally:
        _md_ctx_free(context)


class Certificate:
    """A certificate as OpenSSL reads it. Raises `LibcryptoError` for what is no certificate."""

    def __init__(self, der: bytes) -> None:
        self._pointer = _decode(_d2i_x509, der, "certificate")
        self.der = der
        self.not_after = _as_timestamp(_x509_not_after(self._pointer))
        """When it expires, as `time.time()` counts."""

    def __del__(self) -> None:
        if hasattr(self, "_pointer"):
            _x509_free(self._pointer)

    @property
    def public_key(self) -> bytes:
        """The SubjectPublicKeyInfo in DER."""
        return _encode(_i2d_x509_public_key, _x509_public_key(self._pointer), "i2d_X509_PUBKEY")

    @property
    def is_authority(self) -> bool:
        """Whether basicConstraints say that it may sign certificates."""
        return bool(_x509_check_ca(self._pointer) == 1)

    @property
    def for_clients(self) -> bool | None:
        """Whether extendedKeyUsage names clientAuth; None without that extension."""
        usage = _x509_extended_key_usage(self._pointer)
        return None if usage == _XKU_ABSENT else bool(usage & _XKU_SSL_CLIENT)


class RevocationList:
    """A certificate revocation list as OpenSSL reads it; nothing of it is verified yet."""

    def __init__(self, der: bytes) -> None:
        self._pointer = _decode(_d2i_crl, der, "revocation list")
        self.der = der
        moment = _crl_next_update(self._pointer)
        self.next_update = _as_timestamp(moment) if moment else 0.0
        """When it is no longer to be believed, as `time.time()` counts; 0 when it does not say."""

    def __del__(self) -> None:
        if hasattr(self, "_pointer"):
            _crl_free(self._pointer)

    def names_issuer(self, authority: Certificate) -> bool:
        """Whether it claims to be from `authority`."""
        return bool(_x509_name_cmp(_crl_issuer(self._pointer), _x509_subject(authority._pointer)) == 0)


class Rejection:
    """Why OpenSSL does not accept a certificate."""

    def __init__(self, code: int) -> None:
        text: bytes = _verify_error_string(code)
        self.reason = text.decode(errors="replace")
        self.expired = code == _CERTIFICATE_HAS_EXPIRED
        self.revoked = code == _CERTIFICATE_REVOKED
        self.list_unusable = code in _LIST_FAULTS


def verify_client(
    certificate: Certificate, authority: Certificate, lists: Iterable[RevocationList] | None
) -> Rejection | None:
    """Check a client's certificate against this one CA now; with `lists`, against its revocation list too.

    Signature, dates, extensions, purpose and, of the list, signature, dates and scope: X509_verify_cert(3).
    """
    store = _checked(_store_new(), "X509_STORE_new")
    context = None
    try:
        _checked(_store_add_cert(store, authority._pointer), "X509_STORE_add_cert")
        flags = _X509_V_FLAG_X509_STRICT | _X509_V_FLAG_PARTIAL_CHAIN
        if lists is not None:
            flags |= _X509_V_FLAG_CRL_CHECK
            for revocations in lists:
                _checked(_store_add_crl(store, revocations._pointer), "X509_STORE_add_crl")
        _checked(_store_set_flags(store, flags), "X509_STORE_set_flags")
        _checked(_store_set_purpose(store, _X509_PURPOSE_SSL_CLIENT), "X509_STORE_set_purpose")
        context = _checked(_store_ctx_new(), "X509_STORE_CTX_new")
        _checked(_store_ctx_init(context, store, certificate._pointer, None), "X509_STORE_CTX_init")
        if _verify_cert(context) == 1:
            return None
        return Rejection(_store_ctx_error(context))
    finally:
        _store_ctx_free(context)
        _store_free(store)
        _err_clear_error()


def _decode(function: Any, der: bytes, what: str) -> int:
    cursor = c_char_p(der)
    start = ctypes.cast(cursor, c_void_p).value
    pointer = _checked(function(None, byref(cursor), len(der)), f"this is no {what} in DER")
    end = ctypes.cast(cursor, c_void_p).value
    if start is None or end is None or end - start != len(der):
        raise LibcryptoError(f"there are bytes after the end of a {what}")
    return pointer


def _encode(function: Any, pointer: Any, name: str) -> bytes:
    size = _checked(function(pointer, None), name)
    buffer = ctypes.create_string_buffer(size)
    # i2d functions move the pointer that they are given past what they wrote.
    cursor = ctypes.cast(buffer, c_char_p)
    _checked(function(pointer, byref(cursor)), name)
    return buffer.raw


def _as_timestamp(moment: int) -> float:
    days, seconds = c_int(), c_int()
    _checked(_asn1_time_diff(byref(days), byref(seconds), None, moment), "ASN1_TIME_diff")
    return time.time() + days.value * 86400 + seconds.value
