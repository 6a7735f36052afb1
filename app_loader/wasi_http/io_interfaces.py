"""The functions of `wasi:io`, and of those interfaces whose streams and pollables have to be ours as well."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from app_loader.wasi_http.errors import ErrorResult, GuestFaultError
from app_loader.wasi_http.functions import Interface
from app_loader.wasi_http.resources import Resource
from app_loader.wasi_http.streams import (
    MAX_BLOCKING_WRITE,
    MAX_READ,
    MAX_WRITE,
    Alarm,
    InputStream,
    IoError,
    OutputStream,
    Pollable,
    PrintedStream,
)
from app_loader.wasi_http.values import (
    BOOL,
    BYTES,
    STRING,
    U32,
    U64,
    Borrow,
    Enum,
    List,
    Option,
    Own,
    Result,
    Tuple,
    Variant,
)

if TYPE_CHECKING:
    from app_loader.wasi_http.host import Host

_STREAM_ERROR = Variant({"last-operation-failed": Own(IoError), "closed": None})
_INPUT, _OUTPUT, _POLLABLE = Borrow(InputStream), Borrow(OutputStream), Borrow(Pollable)
_NANOSECONDS = 1_000_000_000
_FOREVER = 100 * 365 * 86400
"""Seconds; a 64-bit number of nanoseconds is more than clocks here can add."""


def _absent(name: str) -> type[Resource]:
    """A resource type of which there is never any: an HTTP workload has no folders and no sockets."""
    return type(name, (Resource,), {})


ERROR = Interface("wasi:io/error", error=IoError)
POLL = Interface("wasi:io/poll", pollable=Pollable)
STREAMS = Interface("wasi:io/streams", input_stream=InputStream, output_stream=OutputStream)
STDIN = Interface("wasi:cli/stdin")
STDOUT = Interface("wasi:cli/stdout")
STDERR = Interface("wasi:cli/stderr")
MONOTONIC_CLOCK = Interface("wasi:clocks/monotonic-clock")
PREOPENS = Interface("wasi:filesystem/preopens")
FILESYSTEM = Interface(
    "wasi:filesystem/types", descriptor=_absent("Descriptor"), directory_entry_stream=_absent("DirectoryEntryStream")
)
TCP = Interface("wasi:sockets/tcp", tcp_socket=_absent("TcpSocket"))
UDP = Interface(
    "wasi:sockets/udp",
    udp_socket=_absent("UdpSocket"),
    incoming_datagram_stream=_absent("IncomingDatagramStream"),
    outgoing_datagram_stream=_absent("OutgoingDatagramStream"),
)
TCP_CREATE_SOCKET = Interface("wasi:sockets/tcp-create-socket")
UDP_CREATE_SOCKET = Interface("wasi:sockets/udp-create-socket")
NAME_LOOKUP = Interface("wasi:sockets/ip-name-lookup", resolve_address_stream=_absent("ResolveAddressStream"))


class NoNetwork(Resource):
    """`network` of wasi:sockets; it gives no rights."""


@ERROR.function("[method]error.to-debug-string", Borrow(IoError), gives=STRING)
def to_debug_string(_host: Host, error: IoError) -> str:
    return error.message


@POLL.function("[method]pollable.ready", _POLLABLE, gives=BOOL)
def ready(_host: Host, pollable: Pollable) -> bool:
    return pollable.ready()


@POLL.function("[method]pollable.block", _POLLABLE)
def block(host: Host, pollable: Pollable) -> None:
    host.wait([pollable])


@POLL.function("poll", List(_POLLABLE), gives=List(U32))
def poll(host: Host, pollables: list[Pollable]) -> list[int]:
    return host.wait(pollables)


@STREAMS.function("[method]input-stream.read", _INPUT, U64, gives=Result(BYTES, _STREAM_ERROR))
def read(_host: Host, stream: InputStream, limit: int) -> bytes:
    return stream.read(min(limit, MAX_READ))


@STREAMS.function("[method]input-stream.blocking-read", _INPUT, U64, gives=Result(BYTES, _STREAM_ERROR))
def blocking_read(host: Host, stream: InputStream, limit: int) -> bytes:
    wanted = min(limit, MAX_READ)
    while not (content := stream.read(wanted)) and wanted:
        host.wait([stream.pollable()])
    return content


@STREAMS.function("[method]input-stream.skip", _INPUT, U64, gives=Result(U64, _STREAM_ERROR))
def skip(_host: Host, stream: InputStream, limit: int) -> int:
    return len(stream.read(min(limit, MAX_READ)))


@STREAMS.function("[method]input-stream.blocking-skip", _INPUT, U64, gives=Result(U64, _STREAM_ERROR))
def blocking_skip(host: Host, stream: InputStream, limit: int) -> int:
    return len(blocking_read(host, stream, limit))


@STREAMS.function("[method]input-stream.subscribe", _INPUT, gives=Own(Pollable))
def subscribe_to_input(_host: Host, stream: InputStream) -> Pollable:
    return stream.pollable()


@STREAMS.function("[method]output-stream.check-write", _OUTPUT, gives=Result(U64, _STREAM_ERROR))
def check_write(_host: Host, stream: OutputStream) -> int:
    return stream.room()


@STREAMS.function("[method]output-stream.write", _OUTPUT, BYTES, gives=Result(None, _STREAM_ERROR))
def write(_host: Host, stream: OutputStream, content: bytes) -> None:
    if len(content) > MAX_WRITE:
        raise GuestFaultError(f"a write of {len(content)} bytes is more than check-write has permitted")
    stream.write(content)


@STREAMS.function("[method]output-stream.blocking-write-and-flush", _OUTPUT, BYTES, gives=Result(None, _STREAM_ERROR))
def blocking_write_and_flush(host: Host, stream: OutputStream, content: bytes) -> None:
    if len(content) > MAX_BLOCKING_WRITE:
        raise GuestFaultError(f"blocking-write-and-flush takes {MAX_BLOCKING_WRITE} bytes, not {len(content)}")
    _write_all(host, stream, content)


def _write_all(host: Host, stream: OutputStream, content: bytes) -> None:
    written = 0
    while written < len(content):
        if room := stream.room():
            stream.write(content[written : written + room])
            written += room
        else:
            host.wait([stream.pollable()])
    stream.flush()


@STREAMS.function("[method]output-stream.flush", _OUTPUT, gives=Result(None, _STREAM_ERROR))
def flush(_host: Host, stream: OutputStream) -> None:
    stream.flush()


@STREAMS.function("[method]output-stream.blocking-flush", _OUTPUT, gives=Result(None, _STREAM_ERROR))
def blocking_flush(_host: Host, stream: OutputStream) -> None:
    stream.flush()


@STREAMS.function("[method]output-stream.subscribe", _OUTPUT, gives=Own(Pollable))
def subscribe_to_output(_host: Host, stream: OutputStream) -> Pollable:
    return stream.pollable()


@STREAMS.function("[method]output-stream.write-zeroes", _OUTPUT, U64, gives=Result(None, _STREAM_ERROR))
def write_zeroes(_host: Host, stream: OutputStream, count: int) -> None:
    if count > MAX_WRITE:
        raise GuestFaultError(f"a write of {count} bytes is more than check-write has permitted")
    stream.write(bytes(count))


@STREAMS.function(
    "[method]output-stream.blocking-write-zeroes-and-flush", _OUTPUT, U64, gives=Result(None, _STREAM_ERROR)
)
def blocking_write_zeroes_and_flush(host: Host, stream: OutputStream, count: int) -> None:
    if count > MAX_BLOCKING_WRITE:
        raise GuestFaultError(f"blocking-write-zeroes-and-flush takes {MAX_BLOCKING_WRITE} bytes, not {count}")
    _write_all(host, stream, bytes(count))


@STREAMS.function("[method]output-stream.splice", _OUTPUT, _INPUT, U64, gives=Result(U64, _STREAM_ERROR))
def splice(_host: Host, stream: OutputStream, source: InputStream, limit: int) -> int:
    if not (room := min(limit, stream.room())):
        return 0
    content = source.read(room)
    stream.write(content)
    return len(content)


@STREAMS.function("[method]output-stream.blocking-splice", _OUTPUT, _INPUT, U64, gives=Result(U64, _STREAM_ERROR))
def blocking_splice(host: Host, stream: OutputStream, source: InputStream, limit: int) -> int:
    content = blocking_read(host, source, min(limit, MAX_WRITE))
    _write_all(host, stream, content)
    return len(content)


@STDIN.function("get-stdin", gives=Own(InputStream))
def get_stdin(_host: Host) -> InputStream:
    return InputStream()


@STDOUT.function("get-stdout", gives=Own(OutputStream))
def get_stdout(_host: Host) -> OutputStream:
    return PrintedStream(1)


@STDERR.function("get-stderr", gives=Own(OutputStream))
def get_stderr(_host: Host) -> OutputStream:
    return PrintedStream(2)


@MONOTONIC_CLOCK.function("now", gives=U64)
def now(_host: Host) -> int:
    return time.monotonic_ns()


@MONOTONIC_CLOCK.function("resolution", gives=U64)
def resolution(_host: Host) -> int:
    return max(1, round(time.get_clock_info("monotonic").resolution * _NANOSECONDS))


@MONOTONIC_CLOCK.function("subscribe-instant", U64, gives=Own(Pollable))
def subscribe_instant(_host: Host, when: int) -> Pollable:
    return Alarm(min(when / _NANOSECONDS, time.monotonic() + _FOREVER))


@MONOTONIC_CLOCK.function("subscribe-duration", U64, gives=Own(Pollable))
def subscribe_duration(_host: Host, duration: int) -> Pollable:
    return Alarm(time.monotonic() + min(duration / _NANOSECONDS, _FOREVER))


@PREOPENS.function("get-directories", gives=List(Tuple(Own(Resource), STRING)))
def get_directories(_host: Host) -> list[tuple[Resource, str]]:
    return []


@FILESYSTEM.function("filesystem-error-code", Borrow(IoError), gives=Option(Enum()))
def filesystem_error_code(_host: Host, _error: IoError) -> None:
    return None


@NAME_LOOKUP.function("resolve-addresses", Borrow(NoNetwork), STRING, gives=Result(Own(Resource), Enum()))
def resolve_addresses(_host: Host, _network: NoNetwork, _name: str) -> Resource:
    raise ErrorResult("access-denied")


@TCP_CREATE_SOCKET.function("create-tcp-socket", Enum(), gives=Result(Own(Resource), Enum()))
@UDP_CREATE_SOCKET.function("create-udp-socket", Enum(), gives=Result(Own(Resource), Enum()))
def create_socket(_host: Host, _family: str) -> Resource:
    raise ErrorResult("access-denied")


INSTANCE_NETWORK = Interface("wasi:sockets/instance-network")
NETWORK = Interface("wasi:sockets/network", network=NoNetwork)


@INSTANCE_NETWORK.function("instance-network", gives=Own(NoNetwork))
def instance_network(_host: Host) -> NoNetwork:
    return NoNetwork()


INTERFACES = (
    ERROR,
    POLL,
    STREAMS,
    STDIN,
    STDOUT,
    STDERR,
    MONOTONIC_CLOCK,
    PREOPENS,
    TCP_CREATE_SOCKET,
    UDP_CREATE_SOCKET,
    FILESYSTEM,
    TCP,
    UDP,
    NAME_LOOKUP,
    INSTANCE_NETWORK,
    NETWORK,
)
