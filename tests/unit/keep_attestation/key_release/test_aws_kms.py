"""Requests to AWS KMS with `Recipient`: signed by botocore, answered by a server that envelops as KMS does."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from keep_attestation.key_release.aws_kms import AwsCredentials, DataKey, KmsRecipient
from keep_attestation.key_release.errors import (
    KeyRefusedError,
    KeyReleaseError,
    KeyServiceError,
    MalformedReplyError,
)
from tests.unit.keep_attestation.key_release.envelopes import envelop
from tests.unit.keep_attestation.key_release.http_server import Request, Response, serve

CREDENTIALS = AwsCredentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "session-token")
SECRET = bytes(range(32))


def document_for(spki: bytes) -> bytes:
    """Stands for an attestation document: nothing but the key that it would attest."""
    return b"document of " + spki


class FakeKms:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.requests: list[Request] = []

    def __call__(self, request: Request) -> Response:
        self.requests.append(request)
        recipient = json.loads(request.body)["Recipient"]
        assert recipient["KeyEncryptionAlgorithm"] == "RSAES_OAEP_SHA_256"
        spki = base64.b64decode(recipient["AttestationDocument"]).removeprefix(b"document of ")
        key = serialization.load_der_public_key(spki)
        assert isinstance(key, rsa.RSAPublicKey)
        body = {
            "KeyId": "arn:aws:kms:eu-central-1:111122223333:key/1",
            "Plaintext": "",
            "CiphertextBlob": base64.b64encode(b"for storage").decode(),
            "CiphertextForRecipient": base64.b64encode(envelop(self._folder, key, SECRET)).decode(),
        }
        return Response(200, json.dumps(body).encode())


@pytest.fixture
def kms(tmp_path: Path) -> FakeKms:
    pytest.importorskip("botocore", reason="the extra `aws` is not installed")
    return FakeKms(tmp_path)


@pytest.fixture
def recipient(kms: FakeKms) -> Iterator[KmsRecipient]:
    with serve(kms) as url, ask(url) as client:
        yield client


def ask(url: str) -> KmsRecipient:
    return KmsRecipient("eu-central-1", CREDENTIALS, document_for, endpoint=url + "/", timeout=10.0)


def test_what_kms_envelops_for_the_attested_key_is_decrypted(kms: FakeKms, recipient: KmsRecipient) -> None:
    assert recipient.decrypt(b"blob", key_id="alias/keep", context={"keep": "1"}) == SECRET
    (request,) = kms.requests
    body = json.loads(request.body)
    assert request.headers["x-amz-target"] == "TrentService.Decrypt"
    assert request.headers["content-type"] == "application/x-amz-json-1.1"
    assert (body["CiphertextBlob"], body["KeyId"]) == (base64.b64encode(b"blob").decode(), "alias/keep")
    assert body["EncryptionContext"] == {"keep": "1"}


def test_requests_carry_signature_version_4(kms: FakeKms, recipient: KmsRecipient) -> None:
    recipient.decrypt(b"blob")
    headers = kms.requests[0].headers
    assert headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")
    assert "/eu-central-1/kms/aws4_request" in headers["authorization"]
    assert headers["x-amz-security-token"] == "session-token"
    assert "x-amz-date" in headers
    assert CREDENTIALS.secret_access_key not in str(headers)


def test_the_signature_is_what_botocore_computes_for_what_was_sent(kms: FakeKms, recipient: KmsRecipient) -> None:
    recipient.decrypt(b"blob")
    (request,) = kms.requests
    auth = pytest.importorskip("botocore.auth")
    awsrequest = pytest.importorskip("botocore.awsrequest")
    credentials = pytest.importorskip("botocore.credentials")
    signed = request.headers["authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
    sent = awsrequest.AWSRequest(
        method="POST",
        url=f"http://{request.headers['host']}/",
        data=request.body,
        headers={name: request.headers[name] for name in signed},
    )
    sent.context["timestamp"] = request.headers["x-amz-date"]
    signer = auth.SigV4Auth(
        credentials.Credentials(CREDENTIALS.access_key_id, CREDENTIALS.secret_access_key), "kms", "eu-central-1"
    )
    signature = signer.signature(signer.string_to_sign(sent, signer.canonical_request(sent)), sent)
    assert request.headers["authorization"].endswith(f"Signature={signature}")


def test_a_data_key_comes_with_its_form_for_storage(kms: FakeKms, recipient: KmsRecipient) -> None:
    assert recipient.generate_data_key("alias/keep") == DataKey(plaintext=SECRET, ciphertext=b"for storage")
    assert json.loads(kms.requests[0].body)["KeySpec"] == "AES_256"
    assert kms.requests[0].headers["x-amz-target"] == "TrentService.GenerateDataKey"


def test_every_request_is_for_a_key_of_its_own(kms: FakeKms, recipient: KmsRecipient) -> None:
    recipient.decrypt(b"blob")
    recipient.decrypt(b"blob")
    documents = {json.loads(request.body)["Recipient"]["AttestationDocument"] for request in kms.requests}
    assert len(documents) == 2


def reply(**members: Any) -> Callable[[Request], Response]:
    return lambda request: Response(200, json.dumps(members).encode())


@pytest.mark.parametrize(
    ("answer", "error", "named"),
    [
        (reply(Plaintext="c2VjcmV0"), MalformedReplyError, "plaintext"),
        (reply(), MalformedReplyError, "without CiphertextForRecipient"),
        (reply(CiphertextForRecipient="!"), MalformedReplyError, "not base64"),
        (reply(CiphertextForRecipient="MAA="), MalformedReplyError, "CMS"),
        (reply(CiphertextForRecipient=1), MalformedReplyError, "not of its API"),
        (lambda request: Response(200, b"\xff"), MalformedReplyError, "not of its API"),
        (
            lambda request: Response(400, b'{"__type": "com.amazonaws.kms#AccessDeniedException", "message": "m"}'),
            KeyRefusedError,
            "AccessDeniedException",
        ),
        (lambda request: Response(403, b'{"__type": "x <script>"}'), KeyRefusedError, "no type of failure"),
        (lambda request: Response(500, b"trace of the secret"), KeyServiceError, "HTTP 500"),
        (lambda request: Response(302, b"", {"Location": "http://127.0.0.1:1/"}), KeyServiceError, "HTTP 302"),
    ],
)
def test_other_replies_raise_our_own_errors(
    kms: FakeKms, answer: Callable[[Request], Response], error: type[Exception], named: str
) -> None:
    with serve(answer) as url, ask(url) as client, pytest.raises(error, match=named) as caught:
        client.decrypt(b"blob")
    assert "secret" not in str(caught.value)


def test_without_botocore_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botocore", None)
    for name in [name for name in sys.modules if name.startswith("botocore.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(KeyReleaseError, match=r"wasmkeep\[aws\]"):
        KmsRecipient("eu-central-1", CREDENTIALS, document_for)


def test_secrets_do_not_show_when_printed() -> None:
    assert CREDENTIALS.secret_access_key not in repr(CREDENTIALS)
    assert "session-token" not in repr(CREDENTIALS)
    assert "secret" not in repr(DataKey(plaintext=b"secret", ciphertext=b""))
