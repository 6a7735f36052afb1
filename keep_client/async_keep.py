"""A keep, for asyncio: the twin of `keep_client.keep`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from keep_client import keep_calls, network_calls, secret_calls
from keep_client.addresses import endpoint_url
from keep_client.async_channel import AsyncBodyFactory, AsyncChannel
from keep_client.calls import Call, StreamCall, T
from keep_client.connections import KeepPeer, connections_to
from keep_client.credentials import Credentials
from keep_client.errors import ConnectionFailedError, IdentityRefusedError, KeyMismatchError, ProblemError
from keep_client.keep_calls import Called, OutputStream
from keep_client.pins import KeepPin
from keep_client.secret_calls import SealedData, UnsealedData
from keep_client.sources import Progress, Source, as_source
from keep_client.workload_http import AsyncWorkloadResponse, ask_workload_async
from keep_protocol.errors import ErrorCode
from keep_protocol.keep_api import FileList, FileStored, KeepStatus, Run, RunList, RunRequest, WorkloadInfo
from keep_protocol.manager_api import KeepRecord
from keep_protocol.network_api import EgressExplanation, KeepEventList
from keep_protocol.sealing_api import Selector
from keep_protocol.secret_api import SecretInfo, SecretList
from keep_protocol.served_api import CallList, RequestList
from keep_protocol.states import FileArea, RunState
from keep_protocol.workload_configuration import ConfigurationInfo, WorkloadConfiguration

AsyncFetchRecord = Callable[[], Awaitable[KeepRecord]]
"""Asks the manager once more what a keep's key is."""


class _Link(NamedTuple):
    peer: KeepPeer
    channel: AsyncChannel


class AsyncKeepClient:
    """Talks to the keep at `endpoint` (`ADDRESS:PORT`) that is what `peer` says: a pinned key, or a proof.

    `connect_keep_async` makes one from a manager.
    With `fetch_record`, a keep that shows another key is looked up once more: after a restart the client goes on with
    the new key, else it raises `ImpostorError`. Every method raises `KeepClientError`. Close it, or use it in
    `async with`.
    """

    def __init__(
        self, endpoint: str, peer: KeepPeer, *, credentials: Credentials, fetch_record: AsyncFetchRecord | None = None
    ) -> None:
        self.endpoint = endpoint
        self._base_url = endpoint_url(endpoint)
        self._credentials = credentials
        self._fetch_record = fetch_record
        self._renewal = asyncio.Lock()
        self._retired: list[AsyncChannel] = []
        self._link = self._connect(peer)

    @classmethod
    def from_certificate(cls, endpoint: str, certificate: str, *, credentials: Credentials) -> Self:
        """A keep whose certificate (PEM) is known from elsewhere; no manager is asked."""
        return cls(endpoint, KeepPin.from_certificate(certificate), credentials=credentials)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        for channel in (*self._retired, self._link.channel):
            await channel.close()

    @property
    def peer(self) -> KeepPeer:
        """What the keep is held to now."""
        return self._link.peer

    async def status(self) -> KeepStatus:
        """The keep about itself and about our roles."""
        return await self._call(keep_calls.status())

    async def verify(self) -> KeepStatus:
        """Connect, and compare what the keep says with what it is held to. Raises `ProtocolError` when they differ."""
        status = await self.status()
        self.peer.check_status(status)
        return status

    async def openapi(self) -> dict[str, Any]:
        """The keep's OpenAPI document."""
        return await self._call(keep_calls.openapi())

    async def workload(self) -> WorkloadInfo:
        """What is loaded."""
        return await self._call(keep_calls.workload())

    async def load_workload(self, wasm: Path | bytes | Source, *, progress: Progress | None = None) -> WorkloadInfo:
        """Send and compile a workload in place of the one that is loaded."""
        source = as_source(wasm)
        return await self._call(keep_calls.load_workload(source), lambda: source.async_chunks(progress))

    async def load_python(
        self, program: Path | bytes | Source, runtime: Path | bytes | Source, *, progress: Progress | None = None
    ) -> WorkloadInfo:
        """Send Python source in place of the workload, and before it what runs it, unless the keep has that compiled.

        `keep_client.python_runtime.build_runtime` makes a runtime.
        """
        source, component = as_source(program), as_source(runtime)
        try:
            return await self._call(keep_calls.load_python(source, component), lambda: source.async_chunks())
        except ProblemError as problem:
            if problem.code != ErrorCode.RUNTIME_NOT_FOUND:
                raise
        await self.load_workload(component, progress=progress)
        return await self._call(keep_calls.load_python(source, component), lambda: source.async_chunks())

    async def remove_workload(self) -> None:
        """Leave the keep empty."""
        await self._call(keep_calls.remove_workload())

    async def configuration(self) -> WorkloadConfiguration:
        """How the workload is run. Raises `ProblemError` (`configuration-not-found`) if nobody has said that."""
        return await self._call(keep_calls.configuration())

    async def configure(self, configuration: WorkloadConfiguration) -> ConfigurationInfo:
        """Say how the workload is run from now on; what evidence will name is the digest."""
        return await self._call(keep_calls.configure(configuration))

    async def remove_configuration(self) -> None:
        """Run the workload as is usual again."""
        await self._call(keep_calls.remove_configuration())

    async def http_log(self, offset: int = 0) -> bytes:
        """The newest of what the workload printed while it answered HTTP requests, from `offset` of all on."""
        return await self._call(keep_calls.http_log(offset))

    async def start_run(self, request: RunRequest | None = None, *, wait: float | None = None) -> Run:
        """Start a run; with `wait`, returns when it has exited or after about that many seconds."""
        return await self._call(keep_calls.start_run(request or RunRequest(), wait))

    async def call(
        self, function: str, arguments: Sequence[Any] = (), *, timeout: float | None = None, memory: int | None = None
    ) -> Any:
        """Call an exported function of the workload, `INTERFACE#FUNCTION` of an exported interface.

        `arguments` and the result are what JSON can hold; integers beyond 2^53 may be strings and come as strings.
        `timeout` is in seconds, `memory` in bytes. `ProblemError.field` names the argument that does not fit.
        """
        return (await self.measured_call(function, arguments, timeout=timeout, memory=memory)).result

    async def measured_call(
        self, function: str, arguments: Sequence[Any] = (), *, timeout: float | None = None, memory: int | None = None
    ) -> Called:
        """As `call`, with what the call used: time, processor, memory, bytes in and out."""
        return await self._call(keep_calls.call(function, arguments, memory, timeout))

    async def list_calls(self) -> CallList:
        """The newest calls of functions: how each ended and what it used."""
        return await self._call(keep_calls.list_calls())

    async def list_http_requests(self) -> RequestList:
        """The newest HTTP requests to the workload: how each ended and what it used."""
        return await self._call(keep_calls.list_http_requests())

    @asynccontextmanager
    async def http(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | AsyncIterable[bytes] | None = None,
    ) -> AsyncGenerator[AsyncWorkloadResponse, None]:
        """Let the workload answer an HTTP request: `async with keep.http("GET", "/") as response: …`.

        `path` may have a query. Every status is the workload's; `ProblemError` is raised where there is no response.
        """
        link = self._link
        async with AsyncExitStack() as stack:
            try:
                response = await stack.enter_async_context(
                    ask_workload_async(link.channel, method, path, headers, body)
                )
            except KeyMismatchError as mismatch:
                # Nothing was sent yet, not even of a body that can be read only once.
                link = await self._renewed(link, mismatch)
                response = await stack.enter_async_context(
                    ask_workload_async(link.channel, method, path, headers, body)
                )
            yield response

    async def list_runs(self) -> RunList:
        """The runs that the keep remembers, oldest first."""
        return await self._call(keep_calls.list_runs())

    async def get_run(self, run_id: str) -> Run:
        """One run as it stands."""
        return await self._call(keep_calls.get_run(run_id))

    async def wait_for_run(self, run_id: str, *, timeout: float | None = None) -> Run:
        """The run when it has exited, or as it stands after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        attempt = 0
        while True:
            run = await self._call(keep_calls.get_run(run_id, keep_calls.patience(deadline)))
            if run.state is RunState.EXITED or (deadline is not None and time.monotonic() >= deadline):
                return run
            await asyncio.sleep(keep_calls.pause(attempt))
            attempt += 1

    async def output(
        self, run_id: str, stream: OutputStream, *, offset: int = 0, follow: bool = False
    ) -> AsyncGenerator[bytes, None]:
        """A run's output from `offset` on; with `follow`, live until it has exited.

        A broken connection is resumed where it ended, as long as each attempt brings something.
        """
        failed_at = -1
        while True:
            call = keep_calls.output(run_id, stream, offset, follow)
            try:
                async with aclosing(self._stream(call, fresh=failed_at >= 0)) as chunks:
                    async for chunk in chunks:
                        offset += len(chunk)
                        yield chunk
                return
            except IdentityRefusedError:
                raise
            except ConnectionFailedError:
                if failed_at == offset:
                    raise
                failed_at = offset

    async def feed_stdin(self, run_id: str, chunks: AsyncIterable[bytes]) -> None:
        """Send the standard input of a run that was started with `stdin="stream"`; the end of `chunks` is its end."""
        await self._call(keep_calls.feed_stdin(run_id), lambda: chunks)

    async def stop_run(self, run_id: str) -> Run:
        """Kill a run."""
        return await self._call(keep_calls.stop_run(run_id))

    async def list_files(self, area: FileArea, path: str = "") -> FileList:
        """A folder's entries. Raises `NotAFolderError`."""
        return await self._call(keep_calls.list_files(area, path))

    def read_file(self, area: FileArea, path: str) -> AsyncGenerator[bytes, None]:
        """A file's bytes as they come. Raises `NotAFileError` with the first one."""
        return self._stream(keep_calls.read_file(area, path))

    async def put_file(
        self, area: FileArea, path: str, data: Path | bytes | Source, *, progress: Progress | None = None
    ) -> FileStored:
        """Store a file in place of what is there, on disk when this returns."""
        source = as_source(data)
        return await self._call(keep_calls.put_file(area, path, source), lambda: source.async_chunks(progress))

    async def make_folder(self, area: FileArea, path: str) -> None:
        """Make a folder; one that exists stays as it is."""
        await self._call(keep_calls.make_folder(area, path))

    async def remove_file(self, area: FileArea, path: str = "") -> None:
        """Remove a file, or a folder with all that it holds."""
        await self._call(keep_calls.remove_file(area, path))

    async def put_secret(self, name: str, value: bytes, ttl: int | None = None) -> SecretInfo:
        """Keep a secret in the keep's memory, for `ttl` seconds or until the keep ends, in place of an older value."""
        return await self._call(secret_calls.put_secret(name, value, ttl))

    async def delete_secret(self, name: str) -> None:
        """Forget a secret; runs that have it keep it."""
        await self._call(secret_calls.delete_secret(name))

    async def list_secrets(self) -> SecretList:
        """The secrets that the keep holds, without their values."""
        return await self._call(secret_calls.list_secrets())

    async def list_events(self, cursor: int = 0, limit: int = 100) -> KeepEventList:
        """What the keep itself reports after `cursor`: connections that its spec does not allow."""
        return await self._call(network_calls.list_events(cursor, limit))

    async def explain_egress(self, url: str, *, method: str | None = None) -> EgressExplanation:
        """Whether the keep may connect to `url`, which may be `HOST:PORT`, and why; it connects to nobody."""
        return await self._call(network_calls.explain_egress(url, method))

    async def seal(
        self, data: bytes, *, purpose: str, bind: Sequence[Selector] = (), counter: int | None = None
    ) -> SealedData:
        """Let the keep seal `data`, bound to `bind` or to what is usual for its key."""
        return await self._call(secret_calls.seal(purpose, data, bind, counter))

    async def unseal(
        self,
        envelope: bytes,
        *,
        purpose: str | None = None,
        expected_counter: int | None = None,
        allow_rollback: bool = False,
    ) -> UnsealedData:
        """Open what the keep sealed. The lowest counter that is acceptable, or `allow_rollback`, must be given."""
        return await self._call(secret_calls.unseal(envelope, purpose, expected_counter, allow_rollback))

    async def _call(self, call: Call[T], body: AsyncBodyFactory | None = None) -> T:
        link = self._link
        try:
            return await link.channel.call(call, body)
        except KeyMismatchError as mismatch:
            # Nothing was sent yet, so this is no second attempt even for calls that must not be repeated.
            return await (await self._renewed(link, mismatch)).channel.call(call, body)

    async def _stream(self, call: StreamCall, *, fresh: bool = False) -> AsyncGenerator[bytes, None]:
        link = self._link
        try:
            async with aclosing(link.channel.stream(call, fresh=fresh)) as chunks:
                async for chunk in chunks:
                    yield chunk
            return
        except KeyMismatchError as mismatch:
            link = await self._renewed(link, mismatch)
        async with aclosing(link.channel.stream(call)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _renewed(self, refused: _Link, mismatch: KeyMismatchError) -> _Link:
        """The link to the keep's next life, or the mismatch when nobody can be asked about it."""
        if self._fetch_record is None or not isinstance(refused.peer, KeepPin):
            raise mismatch
        async with self._renewal:
            if self._link is refused:
                # Other tasks may still use the old channel: it is closed with the client.
                self._link = self._connect(refused.peer.succeeded_by(await self._fetch_record()))
                self._retired.append(refused.channel)
            return self._link

    def _connect(self, peer: KeepPeer) -> _Link:
        connections = connections_to(peer, self._credentials)
        return _Link(peer, AsyncChannel(self._base_url, connections, f"the keep at {self.endpoint}"))
