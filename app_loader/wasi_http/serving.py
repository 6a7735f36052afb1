"""What a process for HTTP does: one request after the other, until the server hangs up.

It has no folders; what it prints goes to the log of HTTP. A request that lasts too long is ended with its process.
"""

from __future__ import annotations

import os
import socket

import msgspec

from app_loader.calling import NO_ASSIGNMENT, become_server
from app_loader.errors import EngineError
from app_loader.instances import Instances
from app_loader.network_channel import NetworkClient
from app_loader.process_usage import own_usage
from app_loader.program import Program
from app_loader.runner_messages import Assignment, ProcessUsage
from app_loader.wasi_http.errors import ServerGoneError
from app_loader.wasi_http.exchange import Channel, Exchange, next_exchange
from app_loader.wasi_http.frames import Conclusion, Outcome
from app_loader.wasi_http.outgoing import OutgoingRequests
from app_loader.wasi_http.program import HttpProgram

_MAX_MESSAGE = 4096


def serve_http(program: Program, connected: socket.socket, log: int, outside: list[int]) -> None:
    """Answer the requests in `connected` until its other end is closed; the caller ends the process.

    `log` takes what the guest prints. `outside` are the last descriptors of `Serve`, if the guest may make requests.
    """
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    become_server()
    channel = Channel(connected)
    if not isinstance(program, HttpProgram):
        return
    if outside:
        program.host.outgoing = _outgoing(*outside)
    instances = Instances(program)
    while (exchange := next_exchange(channel)) is not None:
        before = own_usage().cpu
        try:
            outcome = _answer(program, instances, exchange)
            if outcome != Outcome():
                instances.discard()
            exchange.finish()
            after = own_usage()
            exchange.conclude(Conclusion(outcome, ProcessUsage(after.cpu - before, after.memory), after.cpu))
        except ServerGoneError:
            return


def _outgoing(network: int, roots: int) -> OutgoingRequests:
    def read_roots() -> str:
        with open(roots, "rb", closefd=False) as file:
            file.seek(0)
            return file.read().decode("ascii", "replace")

    return OutgoingRequests(NetworkClient(socket.socket(fileno=network)), read_roots)


def _assignment(exchange: Exchange) -> Assignment:
    return msgspec.structs.replace(NO_ASSIGNMENT, environment=exchange.head.environment, memory=exchange.head.memory)


def _answer(program: HttpProgram, instances: Instances, exchange: Exchange) -> Outcome:
    host = program.host
    host.begin(exchange)
    try:
        context = instances.take(_assignment(exchange), reuse=exchange.head.reuse)
        report = program.handle(context, exchange.head.memory, instances.held)
    except EngineError as error:
        return Outcome(broken=str(error)[:_MAX_MESSAGE])
    finally:
        if not exchange.head.reuse:
            instances.discard()
        host.end()
    if isinstance(host.failure, ServerGoneError):
        raise host.failure
    if host.failure is not None:
        return Outcome(broken=f"{type(host.failure).__name__}: {host.failure}"[:_MAX_MESSAGE])
    if report is not None:
        return Outcome(report=report)
    if exchange.error_code is not None:
        return Outcome(error_code=exchange.error_code[:_MAX_MESSAGE])
    if exchange.sink is None:
        return Outcome(unanswered="the guest returned without a response")
    if not exchange.sink.finished:
        return Outcome(unanswered="the guest returned without having finished its response")
    return Outcome()
