"""A secret from AWS KMS: decrypted for an attested Nitro enclave (`Recipient`), to a key that only this fetch has.

https://docs.aws.amazon.com/kms/latest/developerguide/services-nitro-enclaves.html
"""

from __future__ import annotations

import asyncio
import binascii
from importlib import import_module
from typing import Any, Final

import msgspec

from app_loader.attesters.interface import Statement
from app_loader.key_release.aws_credentials import AwsCredentials
from app_loader.key_release.bounded_http import HttpService, Reply, trust_of
from app_loader.key_release.cms import decrypt_enveloped_key
from app_loader.key_release.connector import Connector
from app_loader.key_release.errors import CredentialsError, KeyRefusedError, KeyServiceError, MalformedReplyError
from app_loader.key_release.proof import Proof
from app_loader.libcrypto_recipient import RsaKey
from keep_protocol.secret_requests import address_of
from keep_protocol.secret_sources import AwsKmsSource
from keep_protocol.strict_json import decode_strictly

_RSA_BITS: Final = 2048
_ACTION: Final = "TrentService.Decrypt"
_CONTENT_TYPE: Final = "application/x-amz-json-1.1"


class _Decrypted(msgspec.Struct, frozen=True, rename="pascal"):
    ciphertext_for_recipient: str | None = None
    plaintext: str | None = None


class _Failure(msgspec.Struct, frozen=True):
    type: str = msgspec.field(default="", name="__type")


async def fetch_from_kms(
    source: AwsKmsSource, credentials: AwsCredentials, proof: Proof, connector: Connector
) -> bytearray:
    """The secret's value, whose memory is the caller's to overwrite. Raises `KeyReleaseError`."""
    address = address_of(source.endpoint)
    service = HttpService(connector, address, trust_of(source.roots))
    key = await asyncio.to_thread(RsaKey, _RSA_BITS)
    made = await proof.attest(Statement(proof.claims(), key.public(), None))
    content = _request(source, made.evidence)
    headers = await asyncio.to_thread(signed_headers, source, credentials, content)
    reply = await service.exchange("POST", "/", content=content, headers=headers)
    return decrypt_enveloped_key(ciphertext_for_recipient(reply), key)


def ciphertext_for_recipient(reply: Reply) -> bytes:
    """The CMS in KMS's answer. Raises `KeyReleaseError`, never with KMS's own words."""
    if reply.status != 200:
        raise _failure(reply)
    try:
        decrypted = decode_strictly(reply.content, _Decrypted)
    except msgspec.DecodeError:
        raise MalformedReplyError("the reply of KMS is not of its API") from None
    if decrypted.plaintext:
        raise MalformedReplyError("KMS sent the secret in plaintext: this endpoint does not know `Recipient`")
    if decrypted.ciphertext_for_recipient is None:
        raise MalformedReplyError("KMS replied without CiphertextForRecipient")
    try:
        return binascii.a2b_base64(decrypted.ciphertext_for_recipient, strict_mode=True)
    except ValueError:
        raise MalformedReplyError("the CiphertextForRecipient of KMS is not base64") from None


def signed_headers(source: AwsKmsSource, credentials: AwsCredentials, content: bytes) -> dict[str, str]:
    """The headers of a request with Signature Version 4. Raises `CredentialsError` without botocore."""
    try:
        auth, requests, identities = (
            import_module(f"botocore.{name}") for name in ("auth", "awsrequest", "credentials")
        )
    except ImportError:
        raise CredentialsError(
            "AWS KMS needs botocore, which keeps of this host do not have: install wasmkeep[aws] there"
        ) from None
    headers = {"Content-Type": _CONTENT_TYPE, "X-Amz-Target": _ACTION}
    request = requests.AWSRequest(method="POST", url=f"{source.endpoint}/", data=content, headers=headers)
    signer = identities.Credentials(credentials.access_key_id, credentials.secret_access_key, credentials.session_token)
    auth.SigV4Auth(signer, "kms", source.region).add_auth(request)
    return dict(request.headers.items())


def _request(source: AwsKmsSource, document: bytes) -> bytes:
    body: dict[str, Any] = {
        "CiphertextBlob": source.ciphertext,
        "Recipient": {
            "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
            "AttestationDocument": binascii.b2a_base64(document, newline=False).decode(),
        },
    }
    if source.key_id is not None:
        body["KeyId"] = source.key_id
    if source.context:
        body["EncryptionContext"] = source.context
    return msgspec.json.encode(body)


def _failure(reply: Reply) -> KeyRefusedError | KeyServiceError:
    try:
        kind = decode_strictly(reply.content, _Failure).type.rpartition("#")[2]
    except msgspec.DecodeError:
        kind = ""
    # Only the type of the failure is repeated, and only if it looks like one.
    name = kind if kind.isidentifier() and kind.isascii() and len(kind) <= 64 else "no type of failure"
    message = f"KMS refused Decrypt: {name} (HTTP {reply.status})"
    if kind == "ThrottlingException" or not 400 <= reply.status < 500:
        return KeyServiceError(message)
    return KeyRefusedError(message)
