"""Keys from AWS KMS for enclaves: requests with `Recipient`, whose replies only the attested key can decrypt.

https://docs.aws.amazon.com/kms/latest/developerguide/services-nitro-enclaves.html. Needs botocore for Signature
Version 4, which the extra `aws` installs; nothing else here does.
"""

from __future__ import annotations

import base64
import binascii
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from types import TracebackType
from typing import Any, TypeAlias

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from keep_attestation.key_release.bounded_http import exchange, new_client
from keep_attestation.key_release.cms import decrypt_enveloped_key
from keep_attestation.key_release.errors import KeyRefusedError, KeyReleaseError, KeyServiceError, MalformedReplyError
from keep_protocol.strict_json import decode_strictly

_RSA_BITS = 3072
_CONTENT_TYPE = "application/x-amz-json-1.1"


@dataclass(frozen=True, slots=True)
class AwsCredentials:
    """What signs requests; `session_token` comes with temporary credentials, as roles give them."""

    access_key_id: str
    secret_access_key: str
    session_token: str | None = None

    def __repr__(self) -> str:
        return f"AwsCredentials(access_key_id={self.access_key_id!r})"


DocumentMaker: TypeAlias = Callable[[bytes], bytes]
"""Makes a Nitro attestation document whose `public_key` is the given SubjectPublicKeyInfo in DER."""


class _Reply(msgspec.Struct, frozen=True, rename="pascal"):
    ciphertext_for_recipient: str | None = None
    ciphertext_blob: str | None = None
    plaintext: str | None = None


class _Failure(msgspec.Struct, frozen=True):
    type: str = msgspec.field(default="", name="__type")


@dataclass(frozen=True, slots=True)
class DataKey:
    """A new data key, and its form for storage, which only KMS can decrypt."""

    plaintext: bytes
    ciphertext: bytes

    def __repr__(self) -> str:
        return "DataKey(…)"


class KmsRecipient:
    """Asks KMS in one region on behalf of an enclave. Close it, or use it in `with`."""

    def __init__(
        self,
        region: str,
        credentials: AwsCredentials,
        document_for: DocumentMaker,
        *,
        endpoint: str | None = None,
        trust: ssl.SSLContext | None = None,
        timeout: float = 30.0,
    ) -> None:
        """`endpoint` is another URL than the region's public one. Raises `KeyReleaseError` without botocore."""
        _import_botocore()
        self._region = region
        self._credentials = credentials
        self._document_for = document_for
        self._endpoint = endpoint or f"https://kms.{region}.amazonaws.com/"
        self._client = new_client(trust, timeout)

    def __enter__(self) -> KmsRecipient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def decrypt(
        self, ciphertext: bytes, *, key_id: str | None = None, context: Mapping[str, str] | None = None
    ) -> bytes:
        """What KMS encrypted before, with the encryption context it was encrypted under.

        Raises `KeyRefusedError`, `KeyServiceError`, `MalformedReplyError`, and what the maker of documents raises.
        """
        body = _given(
            CiphertextBlob=base64.b64encode(ciphertext).decode(),
            KeyId=key_id,
            EncryptionContext=dict(context) if context else None,
        )
        plaintext, _ = self._call("Decrypt", body)
        return plaintext

    def generate_data_key(self, key_id: str, *, context: Mapping[str, str] | None = None) -> DataKey:
        """A new AES-256 key under `key_id`. Raises as `decrypt` does."""
        body = _given(KeyId=key_id, KeySpec="AES_256", EncryptionContext=dict(context) if context else None)
        plaintext, reply = self._call("GenerateDataKey", body)
        if reply.ciphertext_blob is None:
            raise MalformedReplyError("KMS generated a data key without its CiphertextBlob")
        return DataKey(plaintext=plaintext, ciphertext=_decode_base64(reply.ciphertext_blob))

    def _call(self, action: str, body: dict[str, Any]) -> tuple[bytes, _Reply]:
        # A key for this one reply: nobody can replay the reply to another.
        private_key = rsa.generate_private_key(65537, _RSA_BITS)
        spki = private_key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        body["Recipient"] = {
            "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
            "AttestationDocument": base64.b64encode(self._document_for(spki)).decode(),
        }
        content = msgspec.json.encode(body)
        headers = {"Content-Type": _CONTENT_TYPE, "X-Amz-Target": f"TrentService.{action}"}
        signed = self._signed_headers(content, headers)
        http_reply = exchange(self._client, "POST", self._endpoint, content=content, headers=signed)
        if http_reply.status != 200:
            _raise_failure(action, http_reply.status, http_reply.content)
        reply = _decode_reply(http_reply.content)
        if reply.plaintext:
            raise MalformedReplyError("KMS sent a key in plaintext: this endpoint does not know `Recipient`")
        if reply.ciphertext_for_recipient is None:
            raise MalformedReplyError("KMS replied without CiphertextForRecipient")
        return decrypt_enveloped_key(_decode_base64(reply.ciphertext_for_recipient), private_key), reply

    def _signed_headers(self, content: bytes, headers: Mapping[str, str]) -> dict[str, str]:
        auth, awsrequest, credentials = _import_botocore()
        request = awsrequest.AWSRequest(method="POST", url=self._endpoint, data=content, headers=dict(headers))
        signer = credentials.Credentials(
            self._credentials.access_key_id, self._credentials.secret_access_key, self._credentials.session_token
        )
        auth.SigV4Auth(signer, "kms", self._region).add_auth(request)
        return dict(request.headers.items())


def _import_botocore() -> tuple[Any, Any, Any]:
    try:
        return (
            import_module("botocore.auth"),
            import_module("botocore.awsrequest"),
            import_module("botocore.credentials"),
        )
    except ImportError:
        raise KeyReleaseError("AWS KMS needs botocore: install wasmkeep[aws]") from None


def _given(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


def _decode_reply(content: bytes) -> _Reply:
    try:
        return decode_strictly(content, _Reply)
    except msgspec.DecodeError as error:
        raise MalformedReplyError(f"the reply of KMS is not of its API: {error}") from None


def _raise_failure(action: str, status: int, content: bytes) -> None:
    try:
        kind = decode_strictly(content, _Failure).type.rpartition("#")[2]
    except msgspec.DecodeError:
        kind = ""
    # Only the type of the failure is repeated, and only if it looks like one.
    name = kind if kind.isidentifier() and len(kind) <= 64 else "no type of failure"
    message = f"KMS refused {action}: {name} (HTTP {status})"
    if 400 <= status < 500:
        raise KeyRefusedError(message, status)
    raise KeyServiceError(message)


def _decode_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise MalformedReplyError("the reply of KMS holds something that is not base64") from None
