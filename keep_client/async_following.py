"""Following one run with tasks: the twin of `keep_client.following`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import aclosing, suppress

from keep_client.async_keep import AsyncKeepClient
from keep_client.errors import KeepClientError
from keep_client.following import PATIENCE, Sink
from keep_client.keep_calls import OutputStream
from keep_protocol.keep_api import Run
from keep_protocol.states import RunState


async def follow_run_async(
    keep: AsyncKeepClient,
    run_id: str,
    *,
    stdout: Sink,
    stderr: Sink,
    stdin: AsyncIterable[bytes] | None = None,
    stop_on_error: bool = False,
) -> Run:
    """The twin of `follow_run`."""
    given = None if stdin is None else _Input(stdin)
    outputs = {
        asyncio.create_task(_copy(keep, run_id, "stdout", stdout)),
        asyncio.create_task(_copy(keep, run_id, "stderr", stderr)),
    }
    tasks = outputs if given is None else outputs | {asyncio.create_task(given.feed(keep, run_id))}
    try:
        pending = set(tasks)
        while outputs & pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        if given is not None:
            await given.settle()
    except BaseException:
        if stop_on_error:
            with suppress(KeepClientError):
                await keep.stop_run(run_id)
            await asyncio.wait(outputs, timeout=PATIENCE)
        raise
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return await keep.wait_for_run(run_id)


class _Input:
    """Standard input on its way to a run."""

    def __init__(self, chunks: AsyncIterable[bytes]) -> None:
        self._chunks = aiter(chunks)
        self._idle = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            self._idle.set()
            chunk = await anext(self._chunks, None)
            self._idle.clear()
            if chunk is None:
                return
            yield chunk

    async def feed(self, keep: AsyncKeepClient, run_id: str) -> None:
        """Send all of it; a run that exits without having read it is no error."""
        try:
            await keep.feed_stdin(run_id, self)
        except KeepClientError:
            if (await keep.get_run(run_id)).state is not RunState.EXITED:
                raise
        finally:
            self._idle.set()

    async def settle(self) -> None:
        """Wait until it can be cancelled: httpcore leaves a socket open that is cancelled in its handshake."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await self._idle.wait()


async def _copy(keep: AsyncKeepClient, run_id: str, stream: OutputStream, sink: Sink) -> None:
    async with aclosing(keep.output(run_id, stream, follow=True)) as chunks:
        async for chunk in chunks:
            sink(chunk)
