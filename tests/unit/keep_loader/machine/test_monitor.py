"""What QEMU tells of a machine over its monitor."""

from __future__ import annotations

import asyncio
import socket

import pytest

from keep_loader.machine.monitor import Monitor


def test_a_full_disk_of_the_hosts_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async def hear() -> Monitor:
        ours, theirs = socket.socketpair()
        monitor = Monitor(ours)
        hearing = asyncio.create_task(monitor.run())
        with theirs:
            for _ in range(3):
                theirs.sendall(b'{"event":"BLOCK_IO_ERROR","data":{"device":"","nospace":true,"action":"report"}}\n')
            theirs.shutdown(socket.SHUT_WR)
            await hearing
        monitor.close()
        return monitor

    assert asyncio.run(hear()).disk_refused
    assert [record.message for record in caplog.records] == [
        "the host's disk is full: the keep can store nothing until it is restarted"
    ]
