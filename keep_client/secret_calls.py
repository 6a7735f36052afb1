"""The routes of a keep's secrets and of sealing as calls."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from keep_client.addresses import segment
from keep_client.calls import Call, Head, Request, expect_json, expect_nothing
from keep_client.errors import ProtocolError
from keep_protocol.sealing_api import (
    CounterSource,
    SealedHeader,
    SealingKey,
    SealRequest,
    Selector,
    Unsealed,
    UnsealRequest,
)
from keep_protocol.sealing_api import Sealed as SealedAnswer
from keep_protocol.secret_api import SecretInfo, SecretList


@dataclass(frozen=True, slots=True)
class SealedData:
    """An envelope, to be stored anywhere, and the key that opens it."""

    envelope: bytes
    key: SealingKey
    counter: int | None = None
    counted_by: CounterSource | None = None
    """Who gave `counter`: the call that sealed it, or the keep's TPM."""


@dataclass(frozen=True, slots=True)
class UnsealedData:
    """What was in an envelope, and what is written on it.

    Without `rollback_protected` it may be older than the latest that was sealed.
    """

    data: bytes
    header: SealedHeader
    rollback_protected: bool


def put_secret(name: str, value: bytes, ttl: int | None) -> Call[SecretInfo]:
    """`PUT /v1/secrets/{name}`"""
    target = f"/v1/secrets/{segment(name)}" + ("" if ttl is None else f"?ttl={ttl}")
    headers = {"content-type": "application/octet-stream"}
    return Call(Request("PUT", target, headers=headers, body=value, repeatable=True), expect_json(SecretInfo))


def delete_secret(name: str) -> Call[None]:
    """`DELETE /v1/secrets/{name}`"""
    return Call(Request("DELETE", f"/v1/secrets/{segment(name)}"), expect_nothing)


def list_secrets() -> Call[SecretList]:
    """`GET /v1/secrets`"""
    return Call(Request("GET", "/v1/secrets", repeatable=True), expect_json(SecretList))


def seal(purpose: str, data: bytes, bind: Sequence[Selector], counter: int | None) -> Call[SealedData]:
    """`POST /v1/seal`"""
    request = SealRequest(purpose=purpose, data=b64encode(data).decode(), bind=tuple(bind), counter=counter)
    decode = expect_json(SealedAnswer)

    def decoded(head: Head, body: bytes) -> SealedData:
        answer = decode(head, body)
        return SealedData(_from_base64(answer.sealed), answer.key, answer.counter, answer.counted_by)

    return Call(_post("/v1/seal", request), decoded)


def unseal(
    envelope: bytes, purpose: str | None, expected_counter: int | None, allow_rollback: bool
) -> Call[UnsealedData]:
    """`POST /v1/unseal`"""
    request = UnsealRequest(
        sealed=b64encode(envelope).decode(),
        purpose=purpose,
        expected_counter=expected_counter,
        allow_rollback=allow_rollback,
    )
    decode = expect_json(Unsealed)

    def decoded(head: Head, body: bytes) -> UnsealedData:
        answer = decode(head, body)
        return UnsealedData(_from_base64(answer.data), answer.header, answer.rollback_protected)

    return Call(_post("/v1/unseal", request), decoded)


def _post(target: str, body: msgspec.Struct) -> Request:
    headers = {"content-type": "application/json"}
    return Request("POST", target, headers=headers, body=msgspec.json.encode(body), repeatable=True)


def _from_base64(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except ValueError:
        raise ProtocolError("the keep's answer is not base64") from None
