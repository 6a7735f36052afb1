"""The functions of WASI preview 1 for descriptors that are ours; what they do is in wasi_snapshot_preview1.witx.

A guest may pass anything: every descriptor, flag and pointer is checked, and what is wrong is an errno for the guest.
Nothing is taken from a socket before it is known where to put it.
"""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Callable
from typing import Final, TypeVar

from app_loader.preview1 import errnos
from app_loader.preview1.descriptor_table import DescriptorTable, WasiError
from app_loader.preview1.descriptors import NONBLOCK, Descriptor
from app_loader.preview1.guest_memory import (
    GuestMemory,
    OutsideMemoryError,
    TooManyBuffersError,
    buffers,
    part,
    put,
)
from app_loader.preview1.polling import poll_oneoff

_T = TypeVar("_T")

_RECV_PEEK: Final = 1 << 0
_RECV_WAITALL: Final = 1 << 1
_FDFLAGS: Final = 0x1F
_NOT_A_FOLDER: Final = 1
"""A tag of `prestat` that is none: wasi-libc passes on to the next number, where EBADF would end its search."""
_SHUTDOWN: Final = {1: socket.SHUT_RD, 2: socket.SHUT_WR, 3: socket.SHUT_RDWR}


class Functions:
    """One guest's, by their names in `shim_text.PARAMETERS`."""

    def __init__(self, table: DescriptorTable, memory: GuestMemory) -> None:
        self._table = table
        self._memory = memory

    def answer(self, name: str) -> Callable[..., int]:
        """The function that the guest calls: it returns an errno, whatever happens."""
        function: Callable[..., None] = getattr(self, name)

        def call(*arguments: int) -> int:
            try:
                function(*arguments)
            except WasiError as error:
                return error.number
            except OSError as error:
                return errnos.errno_of(error)
            except OutsideMemoryError:
                return errnos.FAULT
            except TooManyBuffersError:
                return errnos.INVAL
            return errnos.SUCCESS

        return call

    def fd_read(self, number: int, iovs: int, count: int, result: int) -> None:
        self._transfer(number, iovs, count, result, select.POLLIN, lambda entry, parts: entry.read(parts))

    def fd_write(self, number: int, iovs: int, count: int, result: int) -> None:
        self._transfer(number, iovs, count, result, select.POLLOUT, lambda entry, parts: entry.write(parts))

    def sock_recv(self, number: int, iovs: int, count: int, flags: int, result: int, flags_out: int) -> None:
        entry = self._table[number]
        if flags & ~(_RECV_PEEK | _RECV_WAITALL):
            raise OSError(errno.EINVAL, "unknown flags")
        view = self._memory.view()
        parts = buffers(view, iovs, count)
        part(view, result, 4), part(view, flags_out, 2)
        peek = bool(flags & _RECV_PEEK)
        if not parts:
            received = 0
        elif flags & _RECV_WAITALL and not peek:
            received = _receive_all(entry, parts)
        else:
            received = _wait(entry, select.POLLIN, lambda: entry.receive(parts, peek=peek))
        put(view, result, "<I", received)
        put(view, flags_out, "<H", 0)

    def sock_send(self, number: int, iovs: int, count: int, flags: int, result: int) -> None:
        if flags:
            raise OSError(errno.EINVAL, "there are no such flags")
        self._transfer(number, iovs, count, result, select.POLLOUT, lambda entry, parts: entry.send(parts))

    def sock_accept(self, number: int, flags: int, result: int) -> None:
        entry = self._table[number]
        if flags & ~NONBLOCK:
            raise OSError(errno.EINVAL, "unknown flags")
        view = self._memory.view()
        part(view, result, 4)
        # Before a connection is taken: without a number for it, it would be lost.
        reserved = self._table.reserve()
        try:
            connection = _wait(entry, select.POLLIN, entry.accept)
        except BaseException:
            self._table.release(reserved)
            raise
        connection.flags = flags
        self._table.put(reserved, connection)
        put(view, result, "<I", reserved)

    def sock_shutdown(self, number: int, how: int) -> None:
        entry = self._table[number]
        if how not in _SHUTDOWN:
            raise OSError(errno.EINVAL, "unknown flags")
        entry.shutdown(_SHUTDOWN[how])

    def fd_close(self, number: int) -> None:
        self._table.close(number)

    def fd_renumber(self, number: int, target: int) -> None:
        self._table.renumber(number, target)

    def fd_fdstat_get(self, number: int, result: int) -> None:
        entry = self._table[number]
        put(
            self._memory.view(),
            result,
            "<BxHxxxxQQ",
            entry.filetype,
            entry.flags,
            entry.rights,
            entry.inheriting_rights,
        )

    def fd_fdstat_set_flags(self, number: int, flags: int) -> None:
        entry = self._table[number]
        if flags & ~_FDFLAGS:
            raise OSError(errno.EINVAL, "unknown flags")
        entry.flags = flags & NONBLOCK

    def fd_filestat_get(self, number: int, result: int) -> None:
        entry = self._table[number]
        put(self._memory.view(), result, "<QQB7xQQQQQ", 0, number, entry.filetype, 1, 0, 0, 0, 0)

    def fd_prestat_get(self, number: int, result: int) -> None:
        if not self._table[number].preopened:
            raise OSError(errno.EBADF, "not from the beginning")
        put(self._memory.view(), result, "<II", _NOT_A_FOLDER, 0)

    def poll_oneoff(self, subscriptions: int, events: int, count: int, result: int) -> None:
        poll_oneoff(self._table, self._memory.view(), subscriptions, events, count, result)

    def _transfer(
        self,
        number: int,
        iovs: int,
        count: int,
        result: int,
        event: int,
        work: Callable[[Descriptor, list[memoryview]], int],
    ) -> None:
        entry = self._table[number]
        view = self._memory.view()
        parts = buffers(view, iovs, count)
        part(view, result, 4)
        put(view, result, "<I", _wait(entry, event, lambda: work(entry, parts)) if parts else 0)


def _wait(entry: Descriptor, event: int, attempt: Callable[[], _T]) -> _T:
    """What an attempt gives, as soon as it gives something; at once for a descriptor that is not to wait."""
    while True:
        try:
            return attempt()
        except BlockingIOError:
            if entry.flags & NONBLOCK:
                raise
        poll = select.poll()
        poll.register(entry.host, event)
        poll.poll()


def _receive_all(entry: Descriptor, parts: list[memoryview]) -> int:
    """Fill all buffers, unless the stream ends or the descriptor is not to wait."""
    received = 0
    for place in parts:
        while place:
            rest = [place]
            try:
                count = _wait(entry, select.POLLIN, lambda: entry.receive(rest, peek=False))  # noqa: B023
            except BlockingIOError:
                if received:
                    return received
                raise
            if count == 0:
                return received
            received += count
            place = place[count:]
    return received
