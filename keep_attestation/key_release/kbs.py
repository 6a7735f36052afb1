"""A client of key brokers that speak Trustee's RCAR protocol: request, challenge, attestation, response.

https://github.com/confidential-containers/trustee/blob/main/kbs/docs/kbs_attestation_protocol.md. The broker encrypts
what it gives out to a key that was made for this session and that the evidence is bound to.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from enum import StrEnum
from types import TracebackType
from typing import Any, TypeAlias, TypeVar
from urllib.parse import urlsplit

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from keep_attestation.key_release.bounded_http import Reply, exchange, new_client
from keep_attestation.key_release.errors import KeyRefusedError, KeyServiceError, MalformedReplyError
from keep_attestation.key_release.jwe import decrypt_flattened_jwe
from keep_protocol.flattened_jwe import ECDH_ES_A256KW, RSA_OAEP_256, encode_base64url
from keep_protocol.key_broker import (
    API_PATH,
    SESSION_COOKIE,
    AttestationReply,
    Challenge,
    binding,
    report_data,
    selected_hash,
    session_request,
)
from keep_protocol.key_broker import Tee as Tee
from keep_protocol.resource_names import is_resource_segment
from keep_protocol.strict_json import decode_strictly

_RSA_BITS = 3072

_T = TypeVar("_T")


class SessionKey(StrEnum):
    """The type of key that replies are encrypted to."""

    EC = "ec"
    """P-256, ECDH-ES+A256KW."""
    RSA = "rsa"
    """3072 bits, RSA-OAEP-256; for brokers that know no other."""


Attester: TypeAlias = Callable[[bytes], Any]
"""Makes evidence over 64 bytes of report data, as the JSON value that the broker's verifier reads for this hardware."""


class KeyBrokerSession:
    """One session with a broker, and the key that its replies are encrypted to. Close it, or use it in `with`."""

    def __init__(
        self,
        url: str,
        tee: Tee,
        attester: Attester,
        *,
        key: SessionKey = SessionKey.EC,
        trust: ssl.SSLContext | None = None,
        timeout: float = 30.0,
        allow_sample: bool = False,
        allow_plain_http: bool = False,
    ) -> None:
        """`url` is the broker's, without path. Raises `ValueError` for what is refused unless told otherwise.

        Plain HTTP is refused: the reply is encrypted, but nothing in it says who encrypted it.
        """
        if tee is Tee.SAMPLE and not allow_sample:
            raise ValueError("evidence of kind 'sample' proves nothing; allow_sample=True is for development alone")
        scheme = urlsplit(url).scheme
        if scheme != "https" and not (scheme == "http" and allow_plain_http):
            raise ValueError(f"a key broker is reached by https, not by {scheme or 'nothing'}: anybody could answer")
        self._base = url.rstrip("/") + API_PATH
        self._tee = tee
        self._attester = attester
        self._key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
        if key is SessionKey.EC:
            self._key = ec.generate_private_key(ec.SECP256R1())
        else:
            self._key = rsa.generate_private_key(65537, _RSA_BITS)
        self._client = new_client(trust, timeout)
        self._attested = False

    def __enter__(self) -> KeyBrokerSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def attest(self) -> str:
        """Go through challenge and attestation; the token that the broker gives, unverified.

        Raises `KeyRefusedError`, `KeyServiceError`, `MalformedReplyError`, and what the attester raises.
        """
        self._attested = False
        # A broker that goes on with an old session would let an old challenge stand.
        self._client.cookies.clear()
        challenge = _decode(self._post("auth", session_request(self._tee)), Challenge)
        if not any(cookie.name == SESSION_COOKIE and cookie.value for cookie in self._client.cookies.jar):
            raise MalformedReplyError(f"the broker sent a challenge without the cookie {SESSION_COOKIE}")
        public_key = public_jwk(self._key)
        additional_evidence = ""
        try:
            algorithm = selected_hash(challenge)
        except ValueError as error:
            raise MalformedReplyError(str(error)) from None
        bound = binding(public_key, challenge.nonce, additional_evidence, algorithm)
        attestation = {
            "runtime-data": {"nonce": challenge.nonce, "tee-pubkey": public_key},
            "tee-evidence": {
                "primary_evidence": self._attester(report_data(bound)),
                "additional_evidence": additional_evidence,
            },
        }
        token = _decode(self._post("attest", attestation), AttestationReply).token
        self._attested = True
        return token

    def fetch(self, repository: str, kind: str, tag: str) -> bytes:
        """The resource `repository/kind/tag`, decrypted; attests before, and once more if the session has ended.

        Raises `KeyRefusedError`, `KeyServiceError`, `MalformedReplyError`, and `ValueError` for impossible names.
        """
        for segment in (repository, kind, tag):
            if not is_resource_segment(segment):
                raise ValueError(f"{segment[:80]!r} is no part of a resource's name: letters, digits, '-', '_' and '.'")
        url = f"{self._base}/resource/{repository}/{kind}/{tag}"
        fresh = not self._attested
        if fresh:
            self.attest()
        reply = exchange(self._client, "GET", url)
        if reply.status == 401 and not fresh:
            self.attest()
            reply = exchange(self._client, "GET", url)
        return decrypt_flattened_jwe(_accepted(reply, url), self._key)

    def _post(self, path: str, body: Any) -> bytes:
        url = f"{self._base}/{path}"
        headers = {"Content-Type": "application/json"}
        reply = exchange(self._client, "POST", url, content=msgspec.json.encode(body), headers=headers)
        return _accepted(reply, url)


def public_jwk(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> dict[str, str]:
    """The public half as a JWK (RFC 7518, section 6) that names what it is for."""
    if isinstance(key, rsa.RSAPrivateKey):
        public = key.public_key().public_numbers()
        modulus = public.n.to_bytes((public.n.bit_length() + 7) // 8, "big")
        exponent = public.e.to_bytes((public.e.bit_length() + 7) // 8, "big")
        return {
            "kty": "RSA",
            "alg": RSA_OAEP_256,
            "n": encode_base64url(modulus),
            "e": encode_base64url(exponent),
        }
    point = key.public_key().public_numbers()
    return {
        "kty": "EC",
        "crv": "P-256",
        "alg": ECDH_ES_A256KW,
        "x": encode_base64url(point.x.to_bytes(32, "big")),
        "y": encode_base64url(point.y.to_bytes(32, "big")),
    }


def _accepted(reply: Reply, url: str) -> bytes:
    if reply.status == 200:
        return reply.content
    # What the broker writes beside a status is not repeated: it may hold anything.
    if reply.status in (401, 403, 404):
        meaning = {401: "does not accept the evidence", 403: "does not give this out", 404: "has no such resource"}
        raise KeyRefusedError(f"{url}: the broker {meaning[reply.status]} (HTTP {reply.status})", reply.status)
    raise KeyServiceError(f"{url}: the broker failed (HTTP {reply.status})")


def _decode(content: bytes, kind: type[_T]) -> _T:
    try:
        return decode_strictly(content, kind)
    except msgspec.DecodeError as error:
        raise MalformedReplyError(f"the broker's reply is not of the protocol: {error}") from None
