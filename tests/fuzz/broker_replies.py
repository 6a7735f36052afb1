"""Fuzzes what a keep reads of key brokers: challenges, cookies, and JWE, which must not open with its keys."""

from __future__ import annotations

import asyncio
import contextlib
import sys

import atheris

with atheris.instrument_imports(include=["app_loader.key_release", "keep_protocol.flattened_jwe"]):
    from app_loader.key_release.bounded_http import Reply
    from app_loader.key_release.errors import MalformedReplyError
    from app_loader.key_release.kbs import decode_challenge, session_cookie
    from app_loader.key_release.recipient_keys import new_recipient, open_jwe
    from keep_protocol.key_broker import selected_hash
    from keep_protocol.secret_sources import BrokerKey

_KEYS = [asyncio.run(new_recipient(kind)) for kind in BrokerKey]


def target(data: bytes) -> None:
    for key in _KEYS:
        try:
            open_jwe(data, key)
        except MalformedReplyError:
            continue
        raise AssertionError("a JWE that nobody made for this key was opened")
    with contextlib.suppress(MalformedReplyError, ValueError):
        selected_hash(decode_challenge(data))
    try:
        cookie = session_cookie(Reply(200, b"", (("set-cookie", data.decode("latin-1")),)))
    except MalformedReplyError:
        return
    if not cookie.isprintable() or ";" in cookie or " " in cookie:
        raise AssertionError("a cookie would add to the headers of later requests")


def main() -> None:
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
