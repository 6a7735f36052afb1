"""A key broker to the text of Trustee's RCAR protocol, for tests; its JWE are made here, not by the code under test."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_wrap

from tests.unit.keep_attestation.key_release.http_server import Request, Response


def b64u(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).decode().rstrip("=")


def unb64u(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def to_int(text: str) -> int:
    return int.from_bytes(unb64u(text), "big")


def encrypt(plaintext: bytes, jwk: Mapping[str, str], **changes: Any) -> dict[str, str]:
    """A flattened JWE for the key in `jwk`; `changes` go into its protected header, as a forger would write it."""
    content_key, nonce = os.urandom(32), os.urandom(12)
    header: dict[str, Any] = {"alg": jwk["alg"], "enc": "A256GCM"}
    if jwk["kty"] == "RSA":
        public = rsa.RSAPublicNumbers(to_int(jwk["e"]), to_int(jwk["n"])).public_key()
        wrapped = public.encrypt(content_key, padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None))
    else:
        ephemeral = ec.generate_private_key(ec.SECP256R1())
        numbers = ephemeral.public_key().public_numbers()
        header["epk"] = {
            "kty": "EC",
            "crv": "P-256",
            "x": b64u(numbers.x.to_bytes(32, "big")),
            "y": b64u(numbers.y.to_bytes(32, "big")),
        }
        peer = ec.EllipticCurvePublicNumbers(to_int(jwk["x"]), to_int(jwk["y"]), ec.SECP256R1()).public_key()
        secret = ephemeral.exchange(ec.ECDH(), peer)
        info = b"\0\0\0\x0eECDH-ES+A256KW" + bytes(8) + (256).to_bytes(4, "big")
        wrapped = aes_key_wrap(hashlib.sha256(b"\0\0\0\x01" + secret + info).digest(), content_key)
    header.update(changes)
    protected = b64u(json.dumps(header).encode())
    sealed = AESGCM(content_key).encrypt(nonce, plaintext, protected.encode())
    return {
        "protected": protected,
        "encrypted_key": b64u(wrapped),
        "iv": b64u(nonce),
        "ciphertext": b64u(sealed[:-16]),
        "tag": b64u(sealed[-16:]),
    }


@dataclass(frozen=True)
class Shown:
    """What a session showed: its hardware's name, evidence, what this must be bound to, and what came beside it."""

    tee: str
    evidence: Any
    digest: bytes
    additional: str


def holds_report_data(shown: Shown) -> bool:
    """Accept whatever names the report data that the protocol demands."""
    expected = (shown.digest + bytes(64 - len(shown.digest))).hex()
    return bool(shown.evidence == {"report_data": expected})


@dataclass
class FakeBroker:
    """Gives out `resources` to sessions whose evidence `accepts` takes."""

    resources: dict[str, bytes] = field(default_factory=lambda: {"default/key/1": b"the secret key"})
    algorithm: str | None = None
    cookies: bool = True
    accepts: Callable[[Shown], bool] = holds_report_data
    requests: list[Request] = field(default_factory=list)
    sessions: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __call__(self, request: Request) -> Response:
        self.requests.append(request)
        match request.method, request.path.removeprefix("/kbs/v0/"):
            case "POST", "auth":
                return self._auth(json.loads(request.body))
            case "POST", "attest":
                return self._attest(self._session(request), json.loads(request.body))
            case "GET", path if path.startswith("resource/"):
                return self._resource(self._session(request), path.removeprefix("resource/"))
        return Response(405)

    def _auth(self, body: dict[str, Any]) -> Response:
        if set(body) != {"version", "tee", "extra-params"}:
            return Response(400)
        session, nonce = secrets.token_hex(16), base64.b64encode(os.urandom(32)).decode()
        self.sessions[session] = {"nonce": nonce, "tee": body["tee"], "key": None}
        extra = {"selected-hash-algorithm": self.algorithm} if self.algorithm else ""
        cookie = {"Set-Cookie": f"kbs-session-id={session}; Path=/"} if self.cookies else {}
        return Response(200, json.dumps({"nonce": nonce, "extra-params": extra}).encode(), cookie)

    def _attest(self, session: dict[str, Any] | None, body: dict[str, Any]) -> Response:
        if session is None:
            return Response(401)
        runtime, evidence = body["runtime-data"], body["tee-evidence"]
        bound = {
            "additional-evidence": evidence["additional_evidence"],
            "nonce": runtime["nonce"],
            "tee-pubkey": runtime["tee-pubkey"],
        }
        canonical = json.dumps(bound, separators=(",", ":"), sort_keys=True).encode()
        digest = hashlib.new(self.algorithm or "sha384", canonical).digest()
        shown = Shown(session["tee"], evidence["primary_evidence"], digest, evidence["additional_evidence"])
        if runtime["nonce"] != session["nonce"] or not self.accepts(shown):
            return Response(401, b'{"type": "attestation", "detail": "no"}')
        session["key"] = runtime["tee-pubkey"]
        return Response(200, b'{"token": "header.payload.signature"}')

    def _resource(self, session: dict[str, Any] | None, name: str) -> Response:
        if session is None or session["key"] is None:
            return Response(401)
        if name not in self.resources:
            return Response(404)
        return Response(200, json.dumps(encrypt(self.resources[name], session["key"])).encode())

    def _session(self, request: Request) -> dict[str, Any] | None:
        name, _, value = request.headers.get("cookie", "").partition("=")
        return self.sessions.get(value) if name == "kbs-session-id" else None
