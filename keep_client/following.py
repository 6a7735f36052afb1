"""Following one run with threads: both outputs at once, standard input beside them, then its record."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress

from keep_client.errors import KeepClientError
from keep_client.keep import KeepClient
from keep_client.keep_calls import OutputStream
from keep_protocol.keep_api import Run
from keep_protocol.states import RunState

Sink = Callable[[bytes], object]
"""Takes output as it comes; what it raises ends the following."""

PATIENCE = 5.0
"""Seconds that what is still on its way when a run is over, or is given up, may take to end."""


def follow_run(
    keep: KeepClient,
    run_id: str,
    *,
    stdout: Sink,
    stderr: Sink,
    stdin: Iterable[bytes] | None = None,
    stop_on_error: bool = False,
) -> Run:
    """Hand a run's output on live and feed its input, until it has exited; returns its record.

    Raises `KeepClientError`, and whatever a sink or `stdin` raises; the run then goes on, unless `stop_on_error`.
    """
    following = _Following(keep, run_id, None if stdin is None else _Input(stdin))
    try:
        following.start(stdout, stderr)
        following.wait()
    except BaseException:
        if stop_on_error:
            # What ended the following is what the caller has to hear, whether or not stopping works too.
            with suppress(KeepClientError):
                keep.stop_run(run_id)
            following.join()
        raise
    finally:
        following.abandon()
    return keep.wait_for_run(run_id)


class _Input:
    """Standard input on its way to a run, so that nobody closes the client while a thread still uses it."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._changed = threading.Condition()
        self._sending = True
        self._abandoned = False

    def __iter__(self) -> Iterator[bytes]:
        while (chunk := self._next()) is not None:
            yield chunk

    def feed(self, keep: KeepClient, run_id: str) -> None:
        """Send all of it; a run that exits without having read it is no error."""
        try:
            keep.feed_stdin(run_id, self)
        except KeepClientError:
            if not self._abandoned and keep.get_run(run_id).state is not RunState.EXITED:
                raise
        finally:
            self._change(sending=False)

    def abandon(self) -> None:
        """Let nothing more be sent. What waits for somebody to type cannot be ended, so that is left waiting."""
        with self._changed:
            self._abandoned = True
            self._changed.wait_for(lambda: not self._sending, timeout=PATIENCE)

    def _next(self) -> bytes | None:
        self._change(sending=False)
        try:
            chunk = next(self._chunks, None)
        finally:
            self._change(sending=True)
        return None if self._abandoned else chunk

    def _change(self, *, sending: bool) -> None:
        with self._changed:
            self._sending = sending
            self._changed.notify_all()


class _Following:
    """The threads that follow one run: one for each stream."""

    def __init__(self, keep: KeepClient, run_id: str, given: _Input | None) -> None:
        self._keep = keep
        self._run_id = run_id
        self._given = given
        self._changed = threading.Condition()
        self._abandoned = False
        self._copying = 0
        self._ended: queue.SimpleQueue[tuple[str, BaseException | None]] = queue.SimpleQueue()

    def start(self, stdout: Sink, stderr: Sink) -> None:
        """Start them all."""
        self._thread("stdout", lambda: self._copy("stdout", stdout))
        self._thread("stderr", lambda: self._copy("stderr", stderr))
        if (given := self._given) is not None:
            self._thread("stdin", lambda: given.feed(self._keep, self._run_id))

    def wait(self) -> None:
        """Until both outputs have ended; raises what a thread has raised."""
        outputs = {"stdout", "stderr"}
        while outputs:
            name, error = self._ended.get()
            if error is not None:
                raise error
            outputs.discard(name)

    def join(self) -> None:
        """Wait until nothing of the outputs is on its way any more."""
        # Not Thread.join(): a signal can interrupt Thread.start() when the thread runs already, and nobody knows it.
        with self._changed:
            self._abandoned = True
            self._changed.wait_for(lambda: self._copying == 0, timeout=PATIENCE)

    def abandon(self) -> None:
        """Nothing more is handed on or fed."""
        self._abandoned = True
        if self._given is not None:
            self._given.abandon()

    def _thread(self, name: str, task: Callable[[], None]) -> None:
        def report() -> None:
            try:
                task()
            except BaseException as error:
                self._ended.put((name, error))
            else:
                self._ended.put((name, None))

        # Daemons: one that waits for input from a terminal must not hold up the end of the program.
        threading.Thread(target=report, name=f"{name} of {self._run_id}", daemon=True).start()

    def _copy(self, stream: OutputStream, sink: Sink) -> None:
        with self._changed:
            if self._abandoned:
                return
            self._copying += 1
        try:
            with closing(self._keep.output(self._run_id, stream, follow=True)) as chunks:
                for chunk in chunks:
                    if self._abandoned:
                        return
                    sink(chunk)
        finally:
            with self._changed:
                self._copying -= 1
                self._changed.notify_all()
