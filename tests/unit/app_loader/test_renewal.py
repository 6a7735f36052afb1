"""A keep's certificate is renewed while it serves, and a failure is tried again."""

from __future__ import annotations

import asyncio
import logging

import pytest

from app_loader.errors import AttesterError
from app_loader.identity import LIFETIME, Identity
from app_loader.renewal import renew_when_due


class Clock:
    """A clock that stands still until somebody moves it."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def renewed(identity: Identity, count: int) -> list[str]:
    """The first so many certificates that a renewal publishes."""
    published: list[str] = []

    async def run() -> None:
        enough = asyncio.Event()

        def publish(certificate: str) -> None:
            published.append(certificate)
            if len(published) == count:
                enough.set()

        task = asyncio.create_task(renew_when_due(identity, asyncio.Lock(), publish, check_interval=0.001))
        async with asyncio.timeout(20):
            await enough.wait()
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(run())
    return published


def test_a_certificate_is_renewed_at_half_its_life_with_new_evidence() -> None:
    clock = Clock()
    asked: list[bytes] = []

    def evidence(spki: bytes) -> bytes:
        asked.append(spki)
        return b"evidence %d" % len(asked)

    identity = Identity("0123456789abcdef", "example.org", (), evidence=evidence, clock=clock)
    first = identity.certificate
    clock.now += LIFETIME / 2
    (second,) = renewed(identity, 1)
    assert second != first
    assert asked == [identity.spki, identity.spki]
    assert not identity.due


def test_evidence_that_cannot_be_made_now_is_asked_for_again(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    asked: list[bytes] = []

    def evidence(spki: bytes) -> bytes:
        asked.append(spki)
        if len(asked) == 2:
            raise AttesterError("the host is busy")
        return b"evidence"

    identity = Identity("0123456789abcdef", "example.org", (), evidence=evidence, clock=clock)
    clock.now += LIFETIME / 2
    with caplog.at_level(logging.ERROR):
        (published,) = renewed(identity, 1)
    assert published == identity.certificate
    assert len(asked) == 3
    assert "the certificate is not renewed yet: the host is busy" in caplog.text
