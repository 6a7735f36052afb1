"""What the routes of sealing do."""

from __future__ import annotations

import asyncio
import binascii
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from app_loader.keep import Keep
from app_loader.messages import Request, Response, json_response
from app_loader.secret_handlers import require_attested
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.sealing_api import MAX_SEALED_DATA, Sealed, SealRequest, Unsealed, UnsealRequest

if TYPE_CHECKING:
    from app_loader.sealing.errors import SealingError
    from app_loader.sealing.sealer import Sealer

T = TypeVar("T")


async def seal(keep: Keep, request: Request) -> Response:
    """Seal data so that only this keep, or one like it, unseals it."""
    # What only keeps that seal need is imported by no other.
    from app_loader.sealing.errors import SealingError

    request.query()
    require_attested(keep, request)
    wanted = await request.json(SealRequest)
    data = _decoded(wanted.data, "data")
    if len(data) > MAX_SEALED_DATA:
        raise RefusalError(ErrorCode.BODY_TOO_LARGE, f"at most {MAX_SEALED_DATA} bytes are sealed at once")
    try:
        sealed, header = await _with_sealer(
            keep,
            lambda sealer: sealer.seal(data, purpose=wanted.purpose, bind=wanted.bind, counter=wanted.counter),
        )
    except SealingError as error:
        raise _refusal(error) from None
    return json_response(Sealed(_encoded(sealed), header.key, header.counter, header.counted_by))


async def unseal(keep: Keep, request: Request) -> Response:
    """Open what was sealed."""
    from app_loader.sealing.errors import SealingError

    request.query()
    require_attested(keep, request)
    wanted = await request.json(UnsealRequest)
    sealed = _decoded(wanted.sealed, "sealed")
    try:
        data, header, protected = await _with_sealer(
            keep,
            lambda sealer: sealer.unseal(
                sealed,
                purpose=wanted.purpose,
                allow_rollback=wanted.allow_rollback,
                expected_counter=wanted.expected_counter,
            ),
        )
    except SealingError as error:
        raise _refusal(error) from None
    return json_response(Unsealed(_encoded(data), header, protected))


async def _with_sealer(keep: Keep, act: Callable[[Sealer], T]) -> T:
    # Keys and counters may be hardware's, which answers one at a time, and slowly.
    async with keep.attesting:
        return await asyncio.to_thread(lambda: act(keep.sealer.find()))


def _refusal(error: SealingError) -> RefusalError:
    from app_loader.sealing.refusals import refusal_of

    refusal = refusal_of(error)
    refusal.field = "$.bind" if refusal.code is ErrorCode.FIELD_INVALID else None
    return refusal


def _encoded(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode()


def _decoded(text: str, field: str) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        raise RefusalError(ErrorCode.FIELD_INVALID, "this is not base64", field=f"$.{field}") from None
