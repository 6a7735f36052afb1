"""The small process that talks to systemd through pystemd.

pystemd never releases the GIL and blocks in every call, so a hung systemd would hang whoever calls it: that must
not be the manager. Requests and answers are msgpack frames on one socket; signals of systemd become frames too.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any

import msgspec

# pystemd passes no timeout of its own; libsystemd's default is 25 s.
os.environ["SYSTEMD_BUS_TIMEOUT"] = "5s"

from pystemd import dbusexc
from pystemd.dbuslib import DBusAddress, apply_signature, path_encode

from keep_manager.supervisor.frames import BusAnswer, BusRequest, BusSignal, UnitProperties, encode_frame
from keep_protocol.names import instance_of_unit

_DESTINATION = b"org.freedesktop.systemd1"
_PATH = b"/org/freedesktop/systemd1"
_MANAGER = _DESTINATION + b".Manager"
_UNIT = _DESTINATION + b".Unit"
_SERVICE = _DESTINATION + b".Service"
_PROPERTIES = b"org.freedesktop.DBus.Properties"
_TEMPLATES = ("keep", "keep-vm", "keep-net")
_UNIT_PATHS = tuple(
    path_encode(_PATH + b"/unit", f"{template}@x.service".encode()).removesuffix(b"x_2eservice")
    for template in _TEMPLATES
)

_STRING, _BOOLEAN, _UINT64 = ord("s"), ord("b"), ord("t")
_OPEN_PROPERTIES = (ord("a"), b"(sv)")
_OPEN_PROPERTY = (ord("r"), b"sv")
_OPEN_UINT64 = (ord("v"), b"t")
_CLOSE = (-1, None)


class Bus:
    """systemd's private socket: calls and signals on connections of their own.

    A blocking call on the connection that signals arrive on would swallow its readiness.
    """

    def __init__(self, address: str) -> None:
        self._calls = self._open(address)
        self._signals = self._open(address)
        self._listeners: list[Callable[..., None]] = []

    @staticmethod
    def _open(address: str) -> Any:
        bus = DBusAddress(f"unix:path={address}".encode(), peer_to_peer=True)
        bus.open()
        return bus

    def fileno(self) -> int:
        """Readable when a signal has arrived."""
        return int(self._signals.get_fd())

    def call(self, method: str, signature: str = "", *arguments: Any) -> Any:
        """Call `method` of the manager object; strings go over as bytes."""
        encoded = [argument.encode() if isinstance(argument, str) else argument for argument in arguments]
        return self.call_typed(method, apply_signature(signature.encode(), encoded) if signature else [])

    def call_typed(self, method: str, arguments: list[tuple[int, Any]]) -> Any:
        """Call `method` with arguments of which each comes with its D-Bus type."""
        return self._calls.call_method(_DESTINATION, _PATH, _MANAGER, method.encode(), arguments).body

    def get(self, path: bytes, interface: bytes, name: str, signature: bytes) -> Any:
        """One property of the object at `path`."""
        return self._calls.get_property(_DESTINATION, path, interface, name.encode(), signature)

    def listen(self, on_job: Callable[[bytes, str], None], on_change: Callable[[bytes], None]) -> None:
        """Have jobs' ends and changed units reported."""

        def job_removed(msg: Any, error: Any, userdata: Any) -> None:
            msg.process_reply(False)
            _, path, _, result = msg.body
            on_job(path, result.decode())

        def properties_changed(msg: Any, error: Any, userdata: Any) -> None:
            on_change(msg.get_path())

        # pystemd keeps a borrowed pointer to a callback: without a reference of ours it is freed under its feet.
        self._listeners = [job_removed, properties_changed]
        self._signals.match_signal(None, _PATH, _MANAGER, b"JobRemoved", job_removed)
        self._signals.match_signal(None, None, _PROPERTIES, b"PropertiesChanged", properties_changed)

    def drain(self) -> None:
        """Dispatch the signals that have arrived."""
        empty = 0
        while empty < 2:
            empty = empty + 1 if self._signals.process().is_empty() else 0


class Helper:
    """Serves requests and passes signals on until either side goes away."""

    def __init__(self, bus: Bus, channel: socket.socket) -> None:
        self._bus = bus
        self._channel = channel
        self._buffer = b""
        self._jobs: dict[bytes, BusRequest] = {}
        self._ended_early: dict[bytes, str] = {}
        self._changed: dict[bytes, None] = {}
        self.exiting = False
        bus.listen(self._job_ended, lambda path: self._changed.setdefault(path))

    def run(self) -> None:
        """Returns when the manager closes its end; raises a D-Bus error when systemd goes away."""
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        poll.register(self._bus.fileno(), select.POLLIN)
        while True:
            self._bus.drain()
            self._report_changes()
            for descriptor, _ in poll.poll():
                if descriptor == self._channel.fileno() and not self._serve():
                    return

    def _serve(self) -> bool:
        received = self._channel.recv(65536)
        self._buffer += received
        while len(self._buffer) >= 4 and len(self._buffer) >= 4 + (length := struct.unpack_from("<I", self._buffer)[0]):
            frame, self._buffer = self._buffer[4 : 4 + length], self._buffer[4 + length :]
            self._answer(msgspec.msgpack.decode(frame, type=BusRequest))
        return bool(received)

    def _answer(self, request: BusRequest) -> None:
        try:
            result = getattr(self, f"_do_{request.operation}")(request)
        except dbusexc.DBusBaseError as error:
            if isinstance(error, (dbusexc.DBusDisconnectedError, dbusexc.DBusConnectionRefusedError)):
                raise
            self._send(BusAnswer(request.number, error=f"{type(error).__name__}: {error}"))
        else:
            if result is not None:
                self._send(result)

    def _do_ping(self, request: BusRequest) -> BusAnswer:
        version = self._bus.get(_PATH, _MANAGER, "Version", b"s")
        return BusAnswer(request.number, text=version.decode())

    def _do_list(self, request: BusRequest) -> BusAnswer:
        rows = (
            self._bus.call(
                "ListUnitsByPatterns", "asas", [], [f"{template}@*.service".encode() for template in _TEMPLATES]
            )
            or []
        )
        return BusAnswer(request.number, units=tuple(self._properties(row[0].decode(), row[6]) for row in rows))

    def _do_status(self, request: BusRequest) -> BusAnswer:
        path = self._bus.call("GetUnit", "s", request.unit)
        return BusAnswer(request.number, units=(self._properties(request.unit, path),))

    def _do_unit_of(self, request: BusRequest) -> BusAnswer:
        path = self._bus.call("GetUnitByPID", "u", request.pid)
        name = self._bus.get(path, _UNIT, "Id", b"s").decode()
        if instance_of_unit(name) is None:
            return BusAnswer(request.number)
        return BusAnswer(request.number, units=(self._properties(name, path),))

    def _set_limits(self, request: BusRequest) -> None:
        # `apply_signature` does not know variants: the containers of sba(sv) are opened and closed by hand.
        properties = [
            step
            for name, value in request.limits.items()
            for step in (_OPEN_PROPERTY, (_STRING, name.encode()), _OPEN_UINT64, (_UINT64, value), _CLOSE, _CLOSE)
        ]
        arguments = [(_STRING, request.unit.encode()), (_BOOLEAN, True), _OPEN_PROPERTIES, *properties, _CLOSE]
        self._bus.call_typed("SetUnitProperties", arguments)

    def _do_start(self, request: BusRequest) -> BusAnswer | None:
        if request.limits:
            self._set_limits(request)
        with contextlib.suppress(dbusexc.DBusNoSuchUnitError):
            # After too many failures systemd refuses to start a unit until somebody says that this was noticed.
            self._do_reset(request)
        return self._job(request, "StartUnit")

    def _do_stop(self, request: BusRequest) -> BusAnswer | None:
        return self._job(request, "StopUnit")

    def _do_reset(self, request: BusRequest) -> BusAnswer:
        self._bus.call("ResetFailedUnit", "s", request.unit)
        return BusAnswer(request.number)

    def _do_revert(self, request: BusRequest) -> BusAnswer:
        self._bus.call("RevertUnitFiles", "as", [request.unit.encode()])
        return BusAnswer(request.number)

    def _do_reload(self, request: BusRequest) -> BusAnswer:
        self._bus.call("Reload")
        return BusAnswer(request.number)

    def _do_exit(self, request: BusRequest) -> BusAnswer:
        self.exiting = True
        self._bus.call("Exit")
        return BusAnswer(request.number)

    def _job(self, request: BusRequest, method: str) -> BusAnswer | None:
        path = self._bus.call(method, "ss", request.unit, "replace")
        self._bus.drain()
        if (result := self._ended_early.pop(path, None)) is not None:
            return self._job_answer(request, result)
        self._jobs[path] = request
        return None

    def _job_ended(self, path: bytes, result: str) -> None:
        request = self._jobs.pop(path, None)
        if request is None:
            # The signal may overtake the answer that would have told us the job's path.
            self._ended_early[path] = result
            while len(self._ended_early) > 256:
                self._ended_early.pop(next(iter(self._ended_early)))
        else:
            self._send(self._job_answer(request, result))

    def _job_answer(self, request: BusRequest, result: str) -> BusAnswer:
        """With what has become of the unit, so that who waits for the job need not ask for it."""
        try:
            units = self._do_status(request).units
        except dbusexc.DBusBaseError:  # it is not loaded any more; or the manager finds out what is wrong when it asks
            units = ()
        return BusAnswer(request.number, text=result, units=units)

    def _report_changes(self) -> None:
        changed, self._changed = self._changed, {}
        for path in changed:
            if path.startswith(_UNIT_PATHS):
                try:
                    name = self._bus.get(path, _UNIT, "Id", b"s").decode()
                    self._send(BusSignal(self._properties(name, path)))
                except (dbusexc.DBusNoSuchUnitError, dbusexc.DBusUnknownObjectError):
                    continue

    def _properties(self, name: str, path: bytes) -> UnitProperties:
        get = self._bus.get
        invocation = bytes(get(path, _UNIT, "InvocationID", b"ay"))
        template, _, instance = name.removesuffix(".service").partition("@")
        return UnitProperties(
            # A machine's unit is a keep's to everybody but systemd.
            template="keep" if instance_of_unit(name) is not None else template,
            instance=instance,
            active=get(path, _UNIT, "ActiveState", b"s").decode(),
            sub=get(path, _UNIT, "SubState", b"s").decode(),
            result=get(path, _SERVICE, "Result", b"s").decode(),
            main_pid=int(get(path, _SERVICE, "MainPID", b"u")),
            invocation=invocation.hex(),
            restarts=int(get(path, _SERVICE, "NRestarts", b"u")),
            memory_current=int(get(path, _SERVICE, "MemoryCurrent", b"t")),
            cgroup=get(path, _SERVICE, "ControlGroup", b"s").decode(),
        )

    def _send(self, message: BusAnswer | BusSignal) -> None:
        self._channel.sendall(encode_frame(message))


def main() -> int:
    """`python -m keep_manager.supervisor.bus_helper ADDRESS DESCRIPTOR`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = socket.socket(fileno=int(sys.argv[2]))
    helper = None
    try:
        helper = Helper(Bus(sys.argv[1]), channel)
        helper.run()
    except dbusexc.DBusBaseError as error:
        if helper is not None and helper.exiting:
            return 0
        print(f"systemd at {sys.argv[1]} went away: {type(error).__name__}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
