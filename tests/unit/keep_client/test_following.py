"""Tests of `keep_client.following`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from keep_client import AsyncKeepClient, Credentials, KeepClient, ProblemError, follow_run, follow_run_async
from keep_protocol.errors import ErrorCode
from keep_protocol.keep_api import Run, RunExit
from keep_protocol.states import ExitReason, RunState
from tests.unit.keep_client.certificates import Pair
from tests.unit.keep_client.conftest import StartKeep
from tests.unit.keep_client.servers import Received, Reply, json_reply, problem_reply

EXITED = Run("r1", RunState.EXITED, "", "", RunExit(ExitReason.CODE, 7))
RAW = "application/octet-stream"


class _Guest:
    """Writes to both outputs in turns, each waiting for the other to have been read."""

    def __init__(self) -> None:
        self.seen = threading.Event()
        self.asked = threading.Event()
        self.input = b""

    def respond(self, received: Received) -> Reply:
        match received.segments[3:]:
            case ("stdout",):
                self.asked.set()
                return Reply(body=self._stdout(), media_type=RAW)
            case ("stderr",):
                assert self.asked.wait(30)
                return Reply(body=iter([b"first"]), media_type=RAW)
            case ("stdin",):
                self.input = received.body
                return Reply(204)
            case _:
                return json_reply(EXITED)

    def _stdout(self) -> Iterator[bytes]:
        assert self.seen.wait(30)
        yield b"second"


Follow = Callable[[KeepClient, Credentials, Pair, _Guest], tuple[Run, bytes]]


def _follow(keep: KeepClient, credentials: Credentials, pair: Pair, guest: _Guest) -> tuple[Run, bytes]:
    written: list[bytes] = []

    def stderr(chunk: bytes) -> None:
        written.append(chunk)
        guest.seen.set()

    run = follow_run(keep, "r1", stdout=written.append, stderr=stderr, stdin=iter([b"in", b"put"]))
    return run, b" ".join(written)


def _follow_async(keep: KeepClient, credentials: Credentials, pair: Pair, guest: _Guest) -> tuple[Run, bytes]:
    written: list[bytes] = []

    def stderr(chunk: bytes) -> None:
        written.append(chunk)
        guest.seen.set()

    async def stdin() -> AsyncIterator[bytes]:
        yield b"in"
        yield b"put"

    async def follow() -> Run:
        twin = AsyncKeepClient.from_certificate(keep.endpoint, pair.certificate, credentials=credentials)
        async with twin as client:
            return await follow_run_async(client, "r1", stdout=written.append, stderr=stderr, stdin=stdin())

    return asyncio.run(follow()), b" ".join(written)


@pytest.mark.parametrize("follow", [_follow, _follow_async], ids=["sync", "async"])
def test_both_outputs_are_followed_at_once(
    start_keep: StartKeep, credentials: Credentials, keep_pair: Pair, follow: Follow
) -> None:
    guest = _Guest()
    _, keep = start_keep(guest.respond)
    run, written = follow(keep, credentials, keep_pair, guest)
    assert (run, written) == (EXITED, b"first second")


def test_an_input_that_is_still_open_does_not_hold_up_the_end(start_keep: StartKeep) -> None:
    guest = _Guest()
    guest.seen.set()
    _, keep = start_keep(guest.respond)
    over = threading.Event()

    def nobody_types() -> Iterator[bytes]:
        over.wait(30)
        yield from ()

    run = follow_run(keep, "r1", stdout=lambda _: None, stderr=lambda _: None, stdin=nobody_types())
    over.set()
    assert run == EXITED


def test_a_guest_that_exits_without_reading_its_input_is_no_error(start_keep: StartKeep) -> None:
    guest = _Guest()
    refused = threading.Event()

    def respond(received: Received) -> Reply:
        if received.segments[-1] == "stdin":
            refused.set()
            return problem_reply(ErrorCode.RUN_STATE_CONFLICT, "the run has exited")
        if received.segments[-1] == "stdout":
            assert refused.wait(30)
        return guest.respond(received)

    guest.seen.set()
    _, keep = start_keep(respond)
    assert follow_run(keep, "r1", stdout=lambda _: None, stderr=lambda _: None, stdin=iter([b"x"])) == EXITED


def test_a_sink_that_fails_ends_the_following_while_the_run_goes_on(start_keep: StartKeep) -> None:
    guest = _Guest()
    _, keep = start_keep(guest.respond)

    def closed(chunk: bytes) -> None:
        raise BrokenPipeError("nobody reads")

    with pytest.raises(BrokenPipeError, match="nobody reads"):
        follow_run(keep, "r1", stdout=lambda _: None, stderr=closed)
    guest.seen.set()


def test_a_sink_that_fails_can_stop_the_run(start_keep: StartKeep) -> None:
    guest = _Guest()

    def respond(received: Received) -> Reply:
        if received.segments[-1] == "stop":
            guest.seen.set()
        return guest.respond(received)

    server, keep = start_keep(respond)

    def closed(chunk: bytes) -> None:
        raise BrokenPipeError("nobody reads")

    with pytest.raises(BrokenPipeError, match="nobody reads"):
        follow_run(keep, "r1", stdout=lambda _: None, stderr=closed, stop_on_error=True)
    assert [request.path for request in server.received if request.method == "POST"] == ["/v1/runs/r1/stop"]


def test_an_output_that_is_refused_is_an_error(start_keep: StartKeep) -> None:
    guest = _Guest()

    def respond(received: Received) -> Reply:
        if received.segments[-1] == "stderr":
            assert guest.asked.wait(30)
            return problem_reply(ErrorCode.FORBIDDEN, "only its owner may read the output")
        return guest.respond(received)

    _, keep = start_keep(respond)
    with pytest.raises(ProblemError, match="only its owner"):
        follow_run(keep, "r1", stdout=lambda _: None, stderr=lambda _: None)
    guest.seen.set()
