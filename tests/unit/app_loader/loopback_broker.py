"""Stands in for a keep's network broker: hands out connections and listeners at the loopback interface."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from keep_protocol.broker import (
    MAX_MESSAGE,
    PROTOCOL_VERSION,
    BrokerAnswer,
    BrokerOperation,
    BrokerRequest,
    BrokerResult,
)


@contextmanager
def loopback_broker(path: Path) -> Iterator[list[BrokerRequest]]:
    """Listens at `path`; what it was asked for. The keep checks that port and address are what its spec allows."""
    asked: list[BrokerRequest] = []

    def work() -> None:
        while True:
            try:
                channel, _ = listener.accept()
            except OSError:
                return
            # A keep that is killed while it asks takes the next one's broker down with it otherwise.
            with channel, suppress(ConnectionError):
                message = channel.recv(MAX_MESSAGE)
                if not message:
                    continue
                request = msgspec.json.decode(message, type=BrokerRequest)
                asked.append(request)
                answer = msgspec.json.encode(BrokerAnswer(PROTOCOL_VERSION, BrokerResult.OK))
                if request.operation is BrokerOperation.BIND:
                    try:
                        given = socket.create_server(("127.0.0.1", request.port))
                    except OSError as error:
                        refusal = BrokerAnswer(PROTOCOL_VERSION, BrokerResult.PORT_TAKEN, str(error))
                        channel.send(msgspec.json.encode(refusal))
                        continue
                else:
                    given = socket.create_connection(("127.0.0.1", request.port))
                with given:
                    socket.send_fds(channel, [answer], [given.fileno()])

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        path.parent.mkdir(exist_ok=True)
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        yield asked
        # Wakes accept(), which close() alone does not.
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
