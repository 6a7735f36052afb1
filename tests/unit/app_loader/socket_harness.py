"""What tests of guests with sockets have in common: configurations, clients, a server to connect to."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from keep_protocol.network_policy import Egress, EgressRule, NetworkPolicy
from keep_protocol.spec import KeepSpec
from keep_protocol.workload_configuration import WorkloadConfiguration
from tests.unit.app_loader.execution_harness import Execution, execute, spec
from tests.unit.app_loader.pki import Credential

MiB = 1024 * 1024
STREAMS = [{"kind": "stdin"}, {"kind": "stdout"}, {"kind": "stderr"}]
PORT = 7000
MODES = ("blocking", "nonblocking", "poll")


def networked() -> KeepSpec:
    rule = EgressRule(host="peer.test", ports=(PORT,), methods=None, private=True)
    return spec(network=NetworkPolicy(listen=(PORT, PORT + 1), egress=Egress(allow=(rule,), deny=())))


def listening(prot: str = "tcp", port: int = PORT, **options: Any) -> dict[str, Any]:
    return {"kind": "listen", "name": "ingest", "prot": prot, "port": port, **options}


def connecting(prot: str = "tcp", **options: Any) -> dict[str, Any]:
    return {"kind": "connect", "host": "peer.test", "prot": prot, "port": PORT, **options}


async def configure(execution: Execution, *files: dict[str, Any], **others: Any) -> None:
    document = {"files": [*STREAMS, *files], **others}
    await execution.configuration.replace(msgspec.convert(document, WorkloadConfiguration))


def play(state: Path, scenario: Callable[[Execution], Awaitable[None]]) -> None:
    execute(state, scenario, networked())


def trusting(execution: Execution, client: Credential | None = None, folder: Path | None = None) -> ssl.SSLContext:
    """What a client of the keep's guests trusts and shows."""
    assert execution.identity is not None
    context = ssl.create_default_context(cadata=execution.identity.certificate)
    if client is not None and folder is not None:
        context.load_cert_chain(client.write(folder))
    return context


@asynccontextmanager
async def client(
    execution: Execution, prot: str = "tcp", port: int = PORT, context: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    tls = context or (trusting(execution) if prot == "tls" else None)
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", execution.network.bound[port], ssl=tls, server_hostname="localhost" if tls else None
    )
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()


async def echoes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, content: bytes) -> None:
    async def send() -> None:
        writer.write(content)
        await writer.drain()

    sending = asyncio.create_task(send())
    assert await reader.readexactly(len(content)) == content
    await sending


@asynccontextmanager
async def echo_server(execution: Execution, context: ssl.SSLContext | None = None) -> AsyncIterator[list[Any]]:
    """What `connecting()` connects to; the certificates that its clients showed."""
    shown: list[Any] = []
    served: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        served.add(task)
        if context is not None:
            shown.append(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
        try:
            while line := await reader.read(65536):
                writer.write(line)
                await writer.drain()
        except (ConnectionError, ssl.SSLError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    execution.network.peers["peer.test", PORT] = server.sockets[0].getsockname()[1]
    try:
        yield shown
    finally:
        server.close()
        await asyncio.gather(*served, return_exceptions=True)
        await server.wait_closed()


def server_context(credential: Credential, folder: Path, clients: str | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=clients)
    context.load_cert_chain(credential.write(folder))
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context
