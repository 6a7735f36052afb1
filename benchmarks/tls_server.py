"""A server of mutual TLS on the stack of keeps (asyncio, Python's ssl), as a process: one port for each certificate
folder on the command line, whose certificates take turns. Says a byte to everybody whom it has let in."""

from __future__ import annotations

import asyncio
import itertools
import json
import ssl
import sys
from pathlib import Path


def _context(certificate: Path, client_ca: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(client_ca)
    context.load_cert_chain(certificate)
    return context


async def _greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b".")
    await reader.read()
    writer.close()


async def main(client_ca: Path, folders: list[Path]) -> None:
    """Prints the ports as JSON; ends when standard input does."""
    servers = []
    for folder in folders:
        contexts = itertools.cycle([_context(path, client_ca) for path in sorted(folder.iterdir())])
        server = await asyncio.start_server(_greet, "127.0.0.1", 0, ssl=_taking_turns(next(contexts), contexts))
        servers.append(server)
    print(json.dumps([server.sockets[0].getsockname()[1] for server in servers]), flush=True)
    await asyncio.to_thread(sys.stdin.read)


def _taking_turns(first: ssl.SSLContext, contexts: itertools.cycle[ssl.SSLContext]) -> ssl.SSLContext:
    def swap(connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = next(contexts)

    first.sni_callback = swap
    return first


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), [Path(argument) for argument in sys.argv[2:]]))
