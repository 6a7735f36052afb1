"""What QEMU tells of a machine over its monitor."""

from __future__ import annotations

import asyncio
import socket

import msgspec
import pytest

from keep_loader.errors import MachineError
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


def ask(answers: list[bytes]) -> object:
    """What a QEMU answers that is asked for its status, and says these lines. Raises `MachineError`."""

    async def converse() -> object:
        ours, theirs = socket.socketpair()
        monitor = Monitor(ours)
        hearing = asyncio.create_task(monitor.run())
        with theirs:
            asking = asyncio.create_task(monitor.execute("query-status"))
            heard = await asyncio.to_thread(lambda: theirs.makefile("rb").readlines(2))
            assert [msgspec.json.decode(line)["execute"] for line in heard] == ["qmp_capabilities"]
            for answer in answers:
                theirs.sendall(answer)
            theirs.shutdown(socket.SHUT_WR)
            try:
                return await asking
            finally:
                await hearing
                monitor.close()

    return asyncio.run(converse())


def test_an_answer_is_that_to_the_question_whatever_comes_before_it() -> None:
    answers = [b'{"return":{}}\n', b'{"event":"STOP"}\n', b'{"return":{},"id":[0]}\n']
    answers.append(b'{"return":{"status":"running"},"id":0}\n')
    assert ask(answers) == {"status": "running"}


def test_a_command_that_qemu_refuses_is_told_in_its_words() -> None:
    with pytest.raises(MachineError, match="qemu-refused: there is no such thing"):
        ask([b'{"error":{"class":"GenericError","desc":"there is no such thing"},"id":0}\n'])


def test_a_qemu_that_hangs_up_has_answered_nobody() -> None:
    with pytest.raises(MachineError, match="qemu-died"):
        ask([b'{"return":{}}\n'])
