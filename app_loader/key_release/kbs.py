"""A secret from a key broker with Trustee's protocol (`keep_protocol.key_broker`): a session, a key, one resource."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any, Final, TypeVar

import msgspec

from app_loader.key_release.bounded_http import HttpService, Reply, trust_of
from app_loader.key_release.broker_evidence import broker_evidence
from app_loader.key_release.connector import Connector
from app_loader.key_release.errors import KeyRefusedError, KeyServiceError, MalformedReplyError
from app_loader.key_release.proof import BoundStatement, Proof
from app_loader.key_release.recipient_keys import RecipientKey, new_recipient, open_jwe
from keep_protocol.key_broker import (
    API_PATH,
    SESSION_COOKIE,
    AttestationReply,
    Challenge,
    binding,
    claims_as_evidence,
    selected_hash,
    session_request,
)
from keep_protocol.secret_requests import TEE_OF_EVIDENCE, address_of
from keep_protocol.secret_sources import KbsSource
from keep_protocol.strict_json import decode_strictly

_REFUSALS: Final = {
    HTTPStatus.UNAUTHORIZED: "does not accept the keep's evidence",
    HTTPStatus.FORBIDDEN: "does not give this out to the keep",
    HTTPStatus.NOT_FOUND: "has no such resource",
}
_COOKIE: Final = re.compile(rf"{SESSION_COOKIE}=\"?([!#-+\--:<-\[\]-~]{{1,1024}})\"?(?:;.*)?", re.ASCII)
"""RFC 6265, 4.1.1: what a cookie's value is made of."""

_T = TypeVar("_T")


async def fetch_from_broker(source: KbsSource, proof: Proof, connector: Connector) -> bytearray:
    """The secret's value, whose memory is the caller's to overwrite. Raises `KeyReleaseError`."""
    session = _Session(HttpService(connector, address_of(source.url), trust_of(source.roots)))
    challenge = await session.begin(proof)
    key = await new_recipient(source.key)
    await session.attest(challenge, proof, key, claims=proof.claims() if source.claims else None)
    return open_jwe(await session.resource(source.resource), key)


def decode_challenge(content: bytes) -> Challenge:
    """What a broker answers a request for a session with. Raises `MalformedReplyError`."""
    return _decode(content, Challenge)


def session_cookie(reply: Reply) -> str:
    """The session that a reply begins. Raises `MalformedReplyError`."""
    found = [
        match[1]
        for name, value in reply.headers
        if name == "set-cookie" and (match := _COOKIE.fullmatch(value)) is not None
    ]
    if len(found) != 1:
        raise MalformedReplyError(f"the broker sent a challenge without one cookie {SESSION_COOKIE}")
    return found[0]


class _Session:
    """One session with a broker: without a key of its own it gives nothing out."""

    def __init__(self, service: HttpService) -> None:
        self._service = service
        self._cookie: str | None = None

    async def begin(self, proof: Proof) -> Challenge:
        reply = await self._post("/auth", session_request(TEE_OF_EVIDENCE[proof.kind]))
        self._cookie = session_cookie(reply)
        return decode_challenge(reply.content)

    async def attest(self, challenge: Challenge, proof: Proof, key: RecipientKey, *, claims: bytes | None) -> None:
        """Show evidence that is bound to the challenge and to `key`; the token stays with the broker's session."""
        public_key = key.jwk()
        additional = "" if claims is None else claims_as_evidence(claims)
        try:
            digest = binding(public_key, challenge.nonce, additional, selected_hash(challenge))
        except ValueError as error:
            raise MalformedReplyError(str(error)) from None
        made = await proof.attest(BoundStatement.over(digest))
        reply = await self._post(
            "/attest",
            {
                "runtime-data": {"nonce": challenge.nonce, "tee-pubkey": public_key},
                "tee-evidence": {
                    "primary_evidence": broker_evidence(proof.kind, made, digest),
                    "additional_evidence": additional,
                },
            },
        )
        _decode(reply.content, AttestationReply)

    async def resource(self, name: str) -> bytes:
        """The resource, still encrypted."""
        return (await self._exchange("GET", f"/resource/{name}")).content

    async def _post(self, path: str, body: Any) -> Reply:
        return await self._exchange("POST", path, msgspec.json.encode(body), {"Content-Type": "application/json"})

    async def _exchange(
        self, method: str, path: str, content: bytes = b"", headers: dict[str, str] | None = None
    ) -> Reply:
        headers = dict(headers or {})
        if self._cookie is not None:
            headers["Cookie"] = f"{SESSION_COOKIE}={self._cookie}"
        reply = await self._service.exchange(method, API_PATH + path, content=content, headers=headers)
        if reply.status == HTTPStatus.OK:
            return reply
        # What the broker writes beside a status is not repeated: it may hold anything.
        where = f"{self._service.url}{API_PATH}{path}"
        for status, meaning in _REFUSALS.items():
            if reply.status == status:
                raise KeyRefusedError(f"{where}: the broker {meaning} (HTTP {reply.status})")
        raise KeyServiceError(f"{where}: the broker failed (HTTP {reply.status})")


def _decode(content: bytes, kind: type[_T]) -> _T:
    try:
        return decode_strictly(content, kind)
    except msgspec.DecodeError as error:
        raise MalformedReplyError(f"the broker's reply is not of the protocol: {error}") from None
