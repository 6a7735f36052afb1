"""The host's end of the control port, with guests that behave and guests that do not."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

import pytest

from keep_loader.errors import MachineError
from keep_loader.machine.control import Control
from keep_protocol.guest_control import (
    Alive,
    Failed,
    GuestEvent,
    Published,
    Ready,
    Revocations,
    Stop,
    Stopped,
    decode_command,
    encode_line,
)
from tests.unit.keep_loader.machine.fake_qemu import CERTIFICATE

RENEWED = CERTIFICATE.replace("fake", "renewed")


class Heard:
    """What the control port made of what the guest said."""

    def __init__(self) -> None:
        self.certificates: list[str] = []
        self.beats = 0
        self.ready = 0

    def beat(self) -> None:
        self.beats += 1

    def be_ready(self) -> None:
        self.ready += 1


def listen(say: Callable[[socket.socket], None]) -> Heard:
    """Follow a guest that says something and hangs up. Raises what the control port raises."""
    heard = Heard()

    async def follow() -> None:
        ours, theirs = socket.socketpair()
        control = Control(ours, publish=heard.certificates.append, heartbeat=heard.beat)
        saying = asyncio.create_task(asyncio.to_thread(_say, theirs, say))
        try:
            await control.follow(heard.be_ready)
        finally:
            control.close()
            await saying

    asyncio.run(follow())
    return heard


def _say(connection: socket.socket, say: Callable[[socket.socket], None]) -> None:
    # Whoever talks nonsense is hung up on.
    with connection, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        say(connection)


def events(*said: GuestEvent) -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(b"".join(map(encode_line, said)))


def test_a_guest_that_is_ready_is_published_once() -> None:
    heard = listen(events(Ready(CERTIFICATE), Alive(), Alive(), Stopped()))
    assert (heard.certificates, heard.ready, heard.beats) == ([CERTIFICATE], 1, 2)


def test_a_renewed_certificate_is_published_too() -> None:
    heard = listen(events(Ready(CERTIFICATE), Published(RENEWED)))
    assert heard.certificates == [CERTIFICATE, RENEWED]


def test_a_sign_of_life_before_the_guest_is_ready_counts_for_nothing() -> None:
    assert listen(events(Alive(), Ready(CERTIFICATE))).beats == 0


def test_an_event_that_comes_in_pieces_is_one_event() -> None:
    line = encode_line(Ready(CERTIFICATE))

    def dribble(connection: socket.socket) -> None:
        for position in range(len(line)):
            connection.sendall(line[position : position + 1])

    assert listen(dribble).ready == 1


def test_a_guest_that_fails_says_why_and_cannot_write_to_the_terminal() -> None:
    with pytest.raises(MachineError) as caught:
        listen(events(Failed("no room\x1b[2J")))
    assert str(caught.value) == "guest-failed: no room\\x1b[2J"


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        (b"{}\n", "no known event"),
        (b"\x00\xff\n", "no known event"),
        (b"[" * 60_000 + b"\n", "no known event"),
        (b'{"event":"ready"}\n', "no known event"),
        (b'{"event":"ready","certificate":"x","more":1}\n', "no known event"),
        (b"x" * 200_000, "a line has more than"),
        (encode_line(Ready("not a certificate")), "no certificate in PEM"),
        (encode_line(Ready(CERTIFICATE + "x" * 40_000)), "no certificate in PEM"),
        (encode_line(Published(CERTIFICATE)), "before it was"),
        (encode_line(Ready(CERTIFICATE)) * 2, "ready twice"),
    ],
)
def test_a_guest_that_makes_no_sense_ends_its_keep(said: bytes, complaint: str) -> None:
    with pytest.raises(MachineError, match=complaint):
        listen(lambda connection: connection.sendall(said))


def test_commands_arrive_as_lines() -> None:
    async def send() -> bytes:
        ours, theirs = socket.socketpair()
        with theirs:
            control = Control(ours, publish=lambda _: None, heartbeat=lambda: None)
            await control.command(Revocations("list"))
            await control.command(Stop())
            control.close()
            return theirs.recv(4096)

    lines = asyncio.run(send()).splitlines()
    assert [decode_command(line) for line in lines] == [Revocations("list"), Stop()]
