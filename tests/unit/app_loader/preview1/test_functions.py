"""WASI's functions for descriptors of ours, with arguments that no honest guest passes."""

from __future__ import annotations

import errno
import os
import random
import socket
import struct
from collections.abc import Iterator
from typing import cast

import pytest

from app_loader.preview1 import errnos
from app_loader.preview1.descriptor_table import MAX_DESCRIPTORS, DescriptorTable, Hold
from app_loader.preview1.descriptors import NONBLOCK, Input, Listener, Null, connection_of
from app_loader.preview1.functions import Functions
from app_loader.preview1.guest_memory import GuestMemory
from app_loader.preview1.shim_text import MARKED, PARAMETERS
from app_loader.relayed_connection import CUT

SIZE = 512
BADF, FAULT, INVAL = errnos.BADF, errnos.FAULT, errnos.INVAL
CONNRESET = errnos.errno_of(ConnectionResetError(errno.ECONNRESET, ""))
CONNECTION, LISTENER, INPUT, NULL = 3, 4, 0, 5


class Wasi:
    """WASI's own table as HOLD sees it, with no store around it."""

    def __init__(self) -> None:
        self.numbers = set(range(6))
        self.marks: dict[int, int] = {}

    def hold(self) -> Hold:
        return Hold(
            marked=lambda number: self.marks.get(number, 0),
            mark=self._mark,
            reserve=self._reserve,
            close=self._close,
            renumber=self._renumber,
            valid=lambda number: 0 if number in self.numbers else -BADF,
            now=lambda: 0,
        )

    def _reserve(self, _folder: int) -> int:
        free = min(set(range(MARKED)) - self.numbers)
        self.numbers.add(free)
        return free

    def _mark(self, number: int, mark: int) -> int:
        self.marks[number] = mark
        return 0

    def _close(self, number: int) -> int:
        self.numbers.discard(number)
        return 0

    def _renumber(self, number: int, target: int) -> int:
        if not {number, target} <= self.numbers:
            return -BADF
        self.numbers.discard(number)
        self.numbers.add(target)
        return 0


class Guest:
    """A memory, and descriptors: a connection, a listening socket, a stream, and nothing."""

    def __init__(self) -> None:
        self.memory = bytearray(SIZE)
        self.wasi = Wasi()
        self.table = DescriptorTable(self.wasi.hold())
        self.table.keep_folder(3)
        self.peer, connection = socket.socketpair()
        self.acceptor, channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with open("/dev/null", "rb") as null:
            stream = Input(os.dup(null.fileno()))
        for number, descriptor in (
            (CONNECTION, connection_of(connection.detach())),
            (LISTENER, Listener(channel.detach())),
            (INPUT, stream),
            (NULL, Null()),
        ):
            descriptor.preopened = True
            descriptor.flags = NONBLOCK
            self.table.put(number, descriptor)
        self.functions = Functions(self.table, cast(GuestMemory, self))

    def view(self) -> memoryview:
        return memoryview(self.memory)

    def call(self, name: str, *arguments: int) -> int:
        return self.functions.answer(name)(*arguments)

    def close(self) -> None:
        # Wherever they have been moved to.
        for number in [number for number in self.wasi.marks if self.table.get(number) is not None]:
            self.table.close(number)
        self.peer.close()
        self.acceptor.close()


@pytest.fixture
def guest() -> Iterator[Guest]:
    made = Guest()
    yield made
    made.close()


@pytest.mark.parametrize("name", PARAMETERS)
def test_whatever_a_guest_passes_it_gets_an_error_number(guest: Guest, name: str) -> None:
    chance = random.Random(name)
    interesting = (0, 1, 2, 3, 4, 5, 7, 63, SIZE - 8, SIZE - 1, SIZE, SIZE + 1, 2**31 - 1, 2**31, 2**32 - 8, 2**32 - 1)
    for _ in range(3000):
        if name not in ("poll_oneoff", "fd_close", "fd_renumber"):
            guest.memory[:] = chance.randbytes(SIZE) if chance.random() < 0.5 else bytes(SIZE)
        arguments = [chance.choice(interesting) for _ in range(PARAMETERS[name])]
        assert guest.call(name, *arguments) in range(77)
        assert len(guest.memory) == SIZE


@pytest.mark.parametrize("number", [CONNECTION, LISTENER, INPUT, NULL])
@pytest.mark.parametrize("pointer", [SIZE - 1, SIZE, 2**32 - 1])
def test_pointers_out_of_the_memory_are_faults_and_take_nothing(guest: Guest, number: int, pointer: int) -> None:
    guest.peer.send(b"kept")
    guest.memory[0:8] = struct.pack("<II", 16, 4)
    for name in ("fd_read", "fd_write"):
        assert guest.call(name, number, pointer, 1, 32) == FAULT
        assert guest.call(name, number, 0, 1, pointer) == FAULT
        guest.memory[0:8] = struct.pack("<II", pointer, 4)
        assert guest.call(name, number, 0, 1, 32) == FAULT
        guest.memory[0:8] = struct.pack("<II", 16, 2**32 - 1)
        assert guest.call(name, number, 0, 1, 32) == FAULT
        guest.memory[0:8] = struct.pack("<II", 16, 4)
    assert guest.call("sock_recv", number, 0, 1, 0, pointer, 40) == FAULT
    assert guest.call("sock_recv", number, 0, 1, 0, 40, pointer) == FAULT
    assert guest.call("sock_accept", number, 0, pointer) == FAULT
    assert guest.call("fd_fdstat_get", number, pointer) == FAULT
    assert guest.call("fd_filestat_get", number, pointer) == FAULT
    assert guest.call("fd_prestat_get", number, pointer) == FAULT
    assert guest.call("poll_oneoff", pointer, 0, 1, 40) == FAULT
    if number == CONNECTION:
        assert guest.call("fd_read", number, 0, 1, 32) == 0
        assert bytes(guest.memory[16:20]) == b"kept"


def test_flags_counts_and_kinds_that_do_not_exist_are_invalid(guest: Guest) -> None:
    assert guest.call("fd_fdstat_set_flags", CONNECTION, 1 << 5) == INVAL
    assert guest.call("sock_accept", LISTENER, 1, 0) == INVAL
    assert guest.call("sock_recv", CONNECTION, 0, 0, 4, 0, 8) == INVAL
    assert guest.call("sock_send", CONNECTION, 0, 0, 1, 0) == INVAL
    assert [guest.call("sock_shutdown", CONNECTION, how) for how in (0, 4)] == [INVAL, INVAL]
    assert guest.call("fd_read", CONNECTION, 0, 1025, 0) == INVAL
    assert [guest.call("poll_oneoff", 0, 0, count, 0) for count in (0, 4097, 2**32 - 1)] == [INVAL] * 3
    guest.memory[8] = 3
    assert guest.call("poll_oneoff", 0, 64, 1, 128) == INVAL


def test_what_a_descriptor_cannot_do_says_so(guest: Guest) -> None:
    notsock, notconn = errnos._NAMES.index("NOTSOCK"), errnos._NAMES.index("NOTCONN")
    guest.memory[0:8] = struct.pack("<II", 16, 4)
    for number in (INPUT, NULL):
        assert guest.call("sock_recv", number, 0, 1, 0, 40, 44) == notsock
        assert guest.call("sock_send", number, 0, 1, 0, 40) == notsock
        assert guest.call("sock_accept", number, 0, 40) == notsock
        assert guest.call("sock_shutdown", number, 1) == notsock
    assert guest.call("fd_read", LISTENER, 0, 1, 40) == notconn
    assert guest.call("sock_accept", CONNECTION, 0, 40) == notsock
    assert guest.call("fd_write", INPUT, 0, 1, 40) == BADF
    assert guest.call("fd_read", 77, 0, 1, 40) == BADF


def test_a_failed_accept_leaves_no_number_behind(guest: Guest) -> None:
    again = errnos._NAMES.index("AGAIN")
    before = set(guest.wasi.numbers)
    assert [guest.call("sock_accept", LISTENER, NONBLOCK, 0) for _ in range(5)] == [again] * 5
    assert guest.wasi.numbers == before


def test_accepted_connections_are_numbered_like_wasi_does_and_are_bounded(guest: Guest) -> None:
    accepted = []
    peers = []
    while True:
        ours, theirs = socket.socketpair()
        socket.send_fds(guest.acceptor, [b"c"], [theirs.fileno()])
        theirs.close()
        peers.append(ours)
        if guest.call("sock_accept", LISTENER, NONBLOCK, 0):
            break
        accepted.append(struct.unpack_from("<I", guest.memory)[0])
        guest.acceptor.recv(16)
    assert len(accepted) == MAX_DESCRIPTORS - 4
    assert accepted == sorted(set(accepted))
    for number in accepted:
        assert guest.call("fd_prestat_get", number, 0) == BADF
        assert guest.call("fd_close", number) == 0
        assert guest.call("fd_close", number) == BADF
        assert guest.wasi.marks[number] == 0
    for peer in peers:
        peer.close()


def test_renumbering_moves_and_closes_what_was_there(guest: Guest) -> None:
    assert guest.call("fd_renumber", CONNECTION, LISTENER) == 0
    assert guest.acceptor.recv(1) == b""
    guest.peer.send(b"x")
    guest.memory[0:8] = struct.pack("<II", 16, 4)
    assert guest.call("fd_read", LISTENER, 0, 1, 32) == 0
    assert guest.call("fd_read", CONNECTION, 0, 1, 32) == BADF
    assert guest.call("fd_renumber", LISTENER, 999) == BADF
    assert guest.call("fd_renumber", LISTENER, 2**31) == BADF
    assert guest.call("fd_renumber", LISTENER, LISTENER) == 0
    assert guest.call("fd_read", LISTENER, 0, 1, 32) == errnos._NAMES.index("AGAIN")


def test_the_folder_of_placeholders_is_nobodys(guest: Guest) -> None:
    folder = next(number for number, mark in guest.wasi.marks.items() if mark and guest.table.get(number) is None)
    assert guest.call("fd_close", folder) == BADF
    assert guest.call("fd_renumber", folder, CONNECTION) == BADF
    assert guest.call("fd_renumber", CONNECTION, folder) == BADF


def test_bytes_before_a_cut_are_read_and_then_there_is_an_error_for_ever(guest: Guest) -> None:
    token = os.eventfd(0)
    guest.peer.sendall(b"last words")
    socket.send_fds(guest.peer, [CUT], [token])
    guest.peer.shutdown(socket.SHUT_WR)
    os.close(token)
    guest.memory[:8] = struct.pack("<II", 64, 32)
    before = len(os.listdir("/proc/self/fd"))
    peek = 1
    for flags in (peek, 0):
        assert guest.call("sock_recv", CONNECTION, 0, 1, flags, 16, 20) == errnos.SUCCESS
        assert (guest.memory[16], bytes(guest.memory[64:74])) == (10, b"last words")
    assert guest.call("sock_recv", CONNECTION, 0, 1, 0, 16, 20) == CONNRESET
    assert guest.call("fd_read", CONNECTION, 0, 1, 16) == CONNRESET
    assert len(os.listdir("/proc/self/fd")) == before
