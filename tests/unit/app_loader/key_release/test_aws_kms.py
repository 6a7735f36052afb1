"""Secrets from AWS KMS: a service in its place takes the key from a Nitro document, and envelops as KMS does."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import fcntl
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cbor2
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from app_loader.attesters import nsm
from app_loader.attesters.nsm import NitroAttester
from app_loader.key_release.aws_credentials import AwsCredentials, decode_credentials, instance_credentials
from app_loader.key_release.aws_kms import fetch_from_kms
from app_loader.key_release.errors import (
    CredentialsError,
    KeyRefusedError,
    KeyReleaseError,
    KeyServiceError,
    MalformedReplyError,
)
from app_loader.key_release.fetching import Fetcher
from app_loader.key_release.proof import Proof
from app_loader.secret_store import SecretStore
from keep_attestation.nitro.document import parse_document
from keep_protocol.secret_sources import AwsKmsSource, InstanceCredentials, SecretCredentials
from tests.unit.app_loader.attesters.fake_nsm import FakeNsm
from tests.unit.app_loader.key_release.services import KMS, METADATA, LoopbackConnector, ServiceAuthority
from tests.unit.keep_attestation.key_release.envelopes import envelop
from tests.unit.keep_attestation.key_release.http_server import Request, Response, serve
from tests.unit.keep_attestation.nitro.forge import Module

SECRET = b"canary of the secret"
CREDENTIALS = AwsCredentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "session-token")
AUTHORITY = ServiceAuthority()
SOURCE = AwsKmsSource(
    "key",
    "eu-central-1",
    base64.b64encode(b"for storage").decode(),
    SecretCredentials("aws"),
    context={"keep": "prices"},
    key_id="alias/keep",
    roots=AUTHORITY.roots,
)


class FakeKms:
    """Decrypts for whoever shows a document; what it decrypts is always the same."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.requests: list[Request] = []
        self.documents: list[Any] = []

    def __call__(self, request: Request) -> Response:
        self.requests.append(request)
        recipient = json.loads(request.body)["Recipient"]
        assert recipient["KeyEncryptionAlgorithm"] == "RSAES_OAEP_SHA_256"
        document = parse_document(base64.b64decode(recipient["AttestationDocument"]))
        self.documents.append(document)
        key = load_der_public_key(document.public_key or b"")
        assert isinstance(key, rsa.RSAPublicKey)
        assert key.key_size == 2048
        reply = {
            "KeyId": "arn:aws:kms:eu-central-1:111122223333:key/1",
            "CiphertextForRecipient": base64.b64encode(envelop(self._folder, key, SECRET)).decode(),
        }
        return Response(200, json.dumps(reply).encode())


@pytest.fixture
def proof(monkeypatch: pytest.MonkeyPatch) -> Proof:
    """Of a keep at a fake of /dev/nsm."""
    module = Module()

    def answer(request: Any) -> bytes:
        members = {"nonce": None} | request["Attestation"]
        encoded: bytes = cbor2.dumps({"Attestation": {"document": module.document(**members)}})
        return encoded

    monkeypatch.setattr(nsm, "DEVICE", Path("/dev/null"))
    monkeypatch.setattr(fcntl, "ioctl", FakeNsm(answer))
    return Proof(NitroAttester(), lambda: b"the claims", asyncio.Lock())


@pytest.fixture
def kms(tmp_path: Path) -> FakeKms:
    pytest.importorskip("botocore", reason="the extra `aws` is not installed")
    return FakeKms(tmp_path)


@contextlib.contextmanager
def at_its_place(answer: Callable[[Request], Response], folder: Path) -> Iterator[LoopbackConnector]:
    with serve(answer, AUTHORITY.tls(folder, KMS)) as url:
        yield LoopbackConnector({KMS: url})


@pytest.fixture
def connector(kms: FakeKms, tmp_path: Path) -> Iterator[LoopbackConnector]:
    with at_its_place(kms, tmp_path) as connector:
        yield connector


def fetch(proof: Proof, connector: LoopbackConnector, **changes: Any) -> bytearray:
    source = msgspec.structs.replace(SOURCE, **changes)
    return asyncio.run(fetch_from_kms(source, CREDENTIALS, proof, connector))


def test_what_kms_decrypts_for_the_attested_key_is_opened(
    kms: FakeKms, connector: LoopbackConnector, proof: Proof
) -> None:
    assert fetch(proof, connector) == SECRET
    ((request,), (document,)) = kms.requests, kms.documents
    body = json.loads(request.body)
    assert (request.method, request.path) == ("POST", "/")
    assert request.headers["x-amz-target"] == "TrentService.Decrypt"
    assert request.headers["content-type"] == "application/x-amz-json-1.1"
    assert (body["CiphertextBlob"], body["KeyId"]) == (SOURCE.ciphertext, "alias/keep")
    assert body["EncryptionContext"] == {"keep": "prices"}
    assert document.user_data == b"the claims"
    assert connector.asked == [(KMS, 443, "POST")]


def test_every_fetch_is_for_a_key_of_its_own(kms: FakeKms, connector: LoopbackConnector, proof: Proof) -> None:
    for _ in range(2):
        fetch(proof, connector)
    assert len({document.public_key for document in kms.documents}) == 2


def test_the_signature_is_what_botocore_computes_for_what_was_sent(
    kms: FakeKms, connector: LoopbackConnector, proof: Proof
) -> None:
    fetch(proof, connector, url=f"https://{KMS}:8443/vpc")
    (request,) = kms.requests
    assert request.path == "/vpc/"
    assert request.headers["host"] == f"{KMS}:8443"
    auth = pytest.importorskip("botocore.auth")
    awsrequest = pytest.importorskip("botocore.awsrequest")
    credentials = pytest.importorskip("botocore.credentials")
    signed = request.headers["authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
    assert {"host", "x-amz-date", "x-amz-security-token", "x-amz-target"} <= set(signed)
    sent = awsrequest.AWSRequest(
        method="POST",
        url=f"https://{request.headers['host']}{request.path}",
        data=request.body,
        headers={name: request.headers[name] for name in signed},
    )
    sent.context["timestamp"] = request.headers["x-amz-date"]
    signer = auth.SigV4Auth(
        credentials.Credentials(CREDENTIALS.access_key_id, CREDENTIALS.secret_access_key), "kms", "eu-central-1"
    )
    signature = signer.signature(signer.string_to_sign(sent, signer.canonical_request(sent)), sent)
    assert request.headers["authorization"].endswith(f"Signature={signature}")
    assert CREDENTIALS.secret_access_key not in str(request.headers)


@pytest.mark.parametrize(
    ("reply", "error", "named"),
    [
        (
            Response(400, b'{"__type": "com.amazonaws.kms#AccessDeniedException", "message": "canary"}'),
            KeyRefusedError,
            r"AccessDeniedException \(HTTP 400\)",
        ),
        (Response(400, b'{"__type": "canary of the secret"}'), KeyRefusedError, "no type of failure"),
        (Response(400, b'{"__type": "ThrottlingException"}'), KeyServiceError, "Throttling"),
        (Response(503, b"canary"), KeyServiceError, "HTTP 503"),
        (Response(302, b"", {"Location": "http://127.0.0.1:1/"}), KeyServiceError, "HTTP 302"),
        (Response(200, b"canary"), MalformedReplyError, "not of its API"),
        (Response(200, b"{}"), MalformedReplyError, "without CiphertextForRecipient"),
        (Response(200, b'{"Plaintext": "Y2FuYXJ5"}'), MalformedReplyError, "plaintext"),
        (Response(200, b'{"CiphertextForRecipient": "canary!"}'), MalformedReplyError, "not base64"),
        (Response(200, b'{"CiphertextForRecipient": "MIAAAA=="}'), MalformedReplyError, "the ContentInfo"),
    ],
)
def test_other_replies_raise_our_own_errors_with_nothing_of_them(
    kms: FakeKms, proof: Proof, tmp_path: Path, reply: Response, error: type[Exception], named: str
) -> None:
    with at_its_place(lambda _: reply, tmp_path) as connector, pytest.raises(error, match=named) as caught:
        fetch(proof, connector)
    assert "canary" not in str(caught.value)
    assert "Y2FuYXJ5" not in str(caught.value)


def test_a_service_that_is_not_kms_is_not_even_asked(kms: FakeKms, proof: Proof, tmp_path: Path) -> None:
    with (
        serve(kms, ServiceAuthority().tls(tmp_path, KMS)) as url,
        pytest.raises(KeyServiceError, match="not who it should be"),
    ):
        fetch(proof, LoopbackConnector({KMS: url}))
    assert kms.requests == []


def test_without_botocore_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, proof: Proof) -> None:
    monkeypatch.setitem(sys.modules, "botocore", None)
    for name in [name for name in sys.modules if name.startswith("botocore.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(CredentialsError, match=r"wasmkeep\[aws\]"):
        fetch(proof, LoopbackConnector({}))


# Credentials


class FakeMetadata:
    """The instance metadata service, version 2."""

    def __init__(self, role: bytes = b"keep-role") -> None:
        self.role = role
        self.requests: list[Request] = []

    def __call__(self, request: Request) -> Response:
        self.requests.append(request)
        if (request.method, request.path) == ("PUT", "/latest/api/token"):
            assert request.headers["x-aws-ec2-metadata-token-ttl-seconds"] == "60"
            return Response(200, b"metadata-token")
        if request.headers.get("x-aws-ec2-metadata-token") != "metadata-token":
            return Response(401)
        if request.path == "/latest/meta-data/iam/security-credentials/":
            return Response(200, self.role)
        if request.path == "/latest/meta-data/iam/security-credentials/keep-role":
            document = {
                "Code": "Success",
                "AccessKeyId": CREDENTIALS.access_key_id,
                "SecretAccessKey": CREDENTIALS.secret_access_key,
                "Token": CREDENTIALS.session_token,
                "Expiration": "2026-11-21T00:00:00Z",
            }
            return Response(200, json.dumps(document).encode())
        return Response(404)


def test_credentials_of_the_instance_come_by_its_metadata_service() -> None:
    with serve(FakeMetadata()) as url:
        connector = LoopbackConnector({METADATA: url})
        assert asyncio.run(instance_credentials(connector)) == CREDENTIALS
    assert {asked[:2] for asked in connector.asked} == {(METADATA, 80)}


@pytest.mark.parametrize("role", [b"", b"a/b", b"a b", b"<html>", b"a\r\nx: y", b"a" * 65])
def test_a_role_that_is_none_is_refused(role: bytes) -> None:
    with serve(FakeMetadata(role)) as url, pytest.raises(KeyReleaseError):
        asyncio.run(instance_credentials(LoopbackConnector({METADATA: url})))


def test_credentials_in_a_secret_are_as_aws_prints_them() -> None:
    members = {"AccessKeyId": "A", "SecretAccessKey": "S", "SessionToken": "T", "Expiration": "2026", "Version": 1}
    assert decode_credentials(json.dumps(members).encode()) == AwsCredentials("A", "S", "T")
    assert decode_credentials(b'{"AccessKeyId": "A", "SecretAccessKey": "S"}') == AwsCredentials("A", "S")


@pytest.mark.parametrize(
    "document",
    [
        b"canary",
        b'"canary"',
        b'{"AccessKeyId": "canary"}',
        b'{"AccessKeyId": "A", "SecretAccessKey": 1}',
        b'{"AccessKeyId": "A", "SecretAccessKey": "canary\\r\\nx: y"}',
        b'{"AccessKeyId": "", "SecretAccessKey": "canary"}',
        b'{"AccessKeyId": "A", "SecretAccessKey": "S", "Token": "canary\\u00e4"}',
    ],
)
def test_other_documents_are_no_credentials_and_are_not_repeated(document: bytes) -> None:
    with pytest.raises(CredentialsError) as caught:
        decode_credentials(document)
    assert "canary" not in str(caught.value)


def test_credentials_do_not_show_when_printed() -> None:
    assert CREDENTIALS.secret_access_key not in repr(CREDENTIALS)


def test_a_fetch_takes_the_credentials_that_its_source_names(
    kms: FakeKms, connector: LoopbackConnector, proof: Proof, tmp_path: Path
) -> None:
    store = SecretStore()

    async def play() -> None:
        fetcher = Fetcher(proof, connector, store)
        with pytest.raises(CredentialsError, match="yet"):
            await fetcher.fetch(SOURCE)
        store.put("aws", bytearray(b'{"AccessKeyId": "FROMSECRET", "SecretAccessKey": "S"}'))
        assert await fetcher.fetch(SOURCE) == SECRET

    asyncio.run(play())
    assert "Credential=FROMSECRET/" in kms.requests[0].headers["authorization"]
    with serve(FakeMetadata()) as metadata, serve(kms, AUTHORITY.tls(tmp_path, KMS)) as url:
        both = LoopbackConnector({KMS: url, METADATA: metadata})
        source = msgspec.structs.replace(SOURCE, credentials=InstanceCredentials())
        assert asyncio.run(Fetcher(proof, both, store).fetch(source)) == SECRET
    assert "Credential=AKIDEXAMPLE/" in kms.requests[1].headers["authorization"]
