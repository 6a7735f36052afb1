"""The guest's end of the control port, over a real socket."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from keep_guest.control import Control
from keep_guest.errors import GuestError, PortError
from keep_guest.ports import open_port
from keep_protocol.guest_control import Alive, Failed, GuestControlError, Stop, decode_first, encode_line
from tests.unit.keep_protocol.test_guest_control import CONFIGURATION


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, Control]]:
    host, guest = socket.socketpair()
    guest.setblocking(False)
    with host, guest:
        yield host, Control(guest.fileno())


def test_what_came_with_the_first_line_is_not_lost(
    ends: tuple[socket.socket, Control],
) -> None:
    host, control = ends
    host.sendall(encode_line(CONFIGURATION) + encode_line(Stop()))
    assert control.await_line(10) + b"\n" == encode_line(CONFIGURATION)
    assert control.commands() == [Stop()]
    assert control.commands() == []


def test_a_host_that_says_nothing_is_not_waited_for_forever(ends: tuple[socket.socket, Control]) -> None:
    _, control = ends
    with pytest.raises(GuestError, match="no configuration within 0 seconds"):
        control.await_line(0)


def test_a_host_that_talks_rubbish_is_refused(ends: tuple[socket.socket, Control]) -> None:
    host, control = ends
    host.sendall(b"hello\n")
    with pytest.raises(GuestControlError, match="configuration is not usable"):
        decode_first(control.await_line(10))


def test_a_host_that_is_gone_is_told_apart_from_one_that_is_silent(ends: tuple[socket.socket, Control]) -> None:
    host, control = ends
    assert control.commands() == []
    host.close()
    assert control.commands() is None


def test_events_reach_the_host_in_order_also_when_it_reads_late(ends: tuple[socket.socket, Control]) -> None:
    host, control = ends
    while not control.waiting:
        control.send(Alive())
    control.send(Failed("the end"))
    received = b""
    host.settimeout(10)
    while not received.endswith(encode_line(Failed("the end"))):
        received += host.recv(1 << 20)
        control.write()
    assert set(received.splitlines()[:-1]) == {b'{"event":"alive"}'}


def test_a_machine_without_the_port_names_it() -> None:
    with pytest.raises(PortError, match=r"no virtio-serial port org\.wasmkeep\.absent"):
        open_port("org.wasmkeep.absent", seconds=0)
