"""Following one run: both outputs at once, standard input beside them, then its record."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterable, Callable, Iterable
from contextlib import aclosing, closing

from keep_client.async_keep import AsyncKeepClient
from keep_client.errors import KeepClientError
from keep_client.keep import KeepClient
from keep_client.keep_calls import OutputStream
from keep_protocol.keep_api import Run
from keep_protocol.states import RunState

Sink = Callable[[bytes], object]
"""Takes output as it comes; what it raises ends the following."""


def follow_run(
    keep: KeepClient, run_id: str, *, stdout: Sink, stderr: Sink, stdin: Iterable[bytes] | None = None
) -> Run:
    """Hand a run's output on live and feed its input, until it has exited; returns its record.

    Raises `KeepClientError`, and whatever a sink or `stdin` raises; the run then goes on: stop it.
    """
    finished: queue.SimpleQueue[tuple[str, BaseException | None]] = queue.SimpleQueue()
    abandoned = threading.Event()

    def copy(stream: OutputStream, sink: Sink) -> None:
        with closing(keep.output(run_id, stream, follow=True)) as chunks:
            for chunk in chunks:
                if abandoned.is_set():
                    return
                sink(chunk)

    def feed(chunks: Iterable[bytes]) -> None:
        try:
            keep.feed_stdin(run_id, chunks)
        except KeepClientError:
            # A guest may exit without having read all of its input.
            if keep.get_run(run_id).state is not RunState.EXITED:
                raise

    def start(name: str, task: Callable[[], None]) -> None:
        def report() -> None:
            try:
                task()
            except BaseException as error:
                finished.put((name, error))
            else:
                finished.put((name, None))

        # Daemons: one that waits for input from a terminal must not hold up the end of the program.
        threading.Thread(target=report, name=f"{name} of {run_id}", daemon=True).start()

    start("stdout", lambda: copy("stdout", stdout))
    start("stderr", lambda: copy("stderr", stderr))
    if stdin is not None:
        start("stdin", lambda: feed(stdin))
    outputs = {"stdout", "stderr"}
    try:
        while outputs:
            name, error = finished.get()
            if error is not None:
                raise error
            outputs.discard(name)
    finally:
        abandoned.set()
    return keep.wait_for_run(run_id)


async def follow_run_async(
    keep: AsyncKeepClient, run_id: str, *, stdout: Sink, stderr: Sink, stdin: AsyncIterable[bytes] | None = None
) -> Run:
    """The twin of `follow_run`."""

    async def copy(stream: OutputStream, sink: Sink) -> None:
        async with aclosing(keep.output(run_id, stream, follow=True)) as chunks:
            async for chunk in chunks:
                sink(chunk)

    async def feed(chunks: AsyncIterable[bytes]) -> None:
        try:
            await keep.feed_stdin(run_id, chunks)
        except KeepClientError:
            if (await keep.get_run(run_id)).state is not RunState.EXITED:
                raise

    outputs = {asyncio.create_task(copy("stdout", stdout)), asyncio.create_task(copy("stderr", stderr))}
    tasks = outputs if stdin is None else outputs | {asyncio.create_task(feed(stdin))}
    try:
        pending = set(tasks)
        while outputs & pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return await keep.wait_for_run(run_id)
