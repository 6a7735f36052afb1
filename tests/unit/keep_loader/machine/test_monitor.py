"""What QEMU tells of a machine over its monitor."""

from __future__ import annotations

import asyncio
import socket

import msgspec
import pytest

from keep_loader.machine.monitor import Monitor


@pytest.mark.parametrize(
    ("reason", "told"),
    [("No space left on device", "the host's disk is full"), ("Input/output error", "the host's disk has an error")],
)
def test_a_disk_of_the_hosts_that_takes_nothing_is_told_once(
    reason: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    # As QEMU 7.2 says it of a device with werror=report: without `nospace`.
    event = {"device": "", "node-name": "disk", "operation": "write", "action": "report", "reason": reason}

    async def hear() -> Monitor:
        ours, theirs = socket.socketpair()
        monitor = Monitor(ours)
        hearing = asyncio.create_task(monitor.run())
        with theirs:
            for _ in range(3):
                theirs.sendall(msgspec.json.encode({"event": "BLOCK_IO_ERROR", "data": event}) + b"\n")
            theirs.shutdown(socket.SHUT_WR)
            await hearing
        monitor.close()
        return monitor

    assert asyncio.run(hear()).disk_refused
    assert [record.message for record in caplog.records] == [
        f"{told}: the keep can store nothing until it is restarted"
    ]
