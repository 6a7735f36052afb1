"""A template that becomes a clone: nothing of the keep's happens before it has what is its own."""

from __future__ import annotations

import fcntl
import random
import socket
import ssl
import time
from base64 import b64encode

import pytest

from keep_guest import template
from keep_guest.control import Control
from keep_protocol.guest_control import Awake, GuestControlError, Prepared, Wake, encode_line
from tests.unit.keep_protocol.test_guest_control import CONFIGURATION, ENTROPY


@pytest.fixture
def freshened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bytes, int]]:
    """What would have been given to the kernel, which takes it of root alone, and in a machine of one's own."""
    taken: list[tuple[bytes, int]] = []
    # This is for a machine of one's own as well.
    monkeypatch.setattr(template, "get_ready", lambda: None)
    monkeypatch.setattr(template, "freshen", lambda entropy, clock: taken.append((entropy, clock)))
    return taken


def wake(line: bytes) -> tuple[object, bytes]:
    """What a clone takes for its configuration, and what it says meanwhile."""
    host, guest = socket.socketpair()
    guest.setblocking(False)
    with host, guest:
        host.sendall(line)
        configuration = template.await_waking(Control(guest.fileno()))
        return configuration, host.recv(4096)


def test_a_clone_takes_its_entropy_and_time_and_then_its_configuration(freshened: list[tuple[bytes, int]]) -> None:
    line = encode_line(Wake(b64encode(ENTROPY).decode(), 17, CONFIGURATION))
    assert wake(line) == (CONFIGURATION, encode_line(Prepared()) + encode_line(Awake()))
    assert freshened == [(ENTROPY, 17)]


def test_a_clone_that_gets_no_entropy_becomes_nobody(freshened: list[tuple[bytes, int]]) -> None:
    with pytest.raises(GuestControlError, match="needs 32 bytes of entropy"):
        wake(encode_line(Wake("", 17, CONFIGURATION)))
    assert freshened == []


def test_everything_that_has_random_state_gets_another(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[object, ...]] = []
    monkeypatch.setattr(fcntl, "ioctl", lambda _, *what: done.append(what))
    monkeypatch.setattr(ssl, "RAND_add", lambda added, worth: done.append((len(added), worth)))
    monkeypatch.setattr(time, "clock_settime_ns", lambda *what: done.append(what))
    state = random.getstate()
    template.freshen(ENTROPY, 17)
    assert done == [
        (0x40085203, (8 * 32).to_bytes(4, "little") + (32).to_bytes(4, "little") + ENTROPY),
        (0x5207,),
        (32, 32.0),
        (time.CLOCK_REALTIME, 17),
    ]
    assert random.getstate() != state
