"""Stands for QEMU with a guest in it: takes QEMU's options, and speaks on the sockets that they name.

What goes wrong is said in the kernel's command line. Started as a program of its own by `qemu_program`.
"""

from __future__ import annotations

import itertools
import os
import re
import select
import signal
import socket
import stat
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from keep_protocol.channel import Aborted, Ended, Event, Multiplexer, Received, Role
from keep_protocol.guest_control import (
    Alive,
    Failed,
    GuestEvent,
    LineReader,
    Published,
    Ready,
    Stop,
    Stopped,
    decode_command,
    decode_configuration,
    encode_line,
)

CERTIFICATE = "-----BEGIN CERTIFICATE-----\nfake\n-----END CERTIFICATE-----\n"


def qemu_program(folder: Path) -> str:
    """An executable in `folder` that is this file."""
    program = folder / "qemu"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m tests.unit.keep_loader.machine.fake_qemu "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return str(program)


class FakeGuest:
    """The guest's ends of the ports; `behaviour` is the kernel's command line."""

    def __init__(self, arguments: Sequence[str]) -> None:
        options = dict(itertools.pairwise(arguments))
        self.behaviour = options["-append"].split()
        chardevs = dict(re.findall(r"socket,id=(\w+),fd=(\d+)", " ".join(arguments)))
        ports = {name: socket.socket(fileno=int(descriptor)) for name, descriptor in chardevs.items()}
        self.monitor, self.console, self.control = (ports[name] for name in ("monitor", "console", "control"))
        # A guest with a vsock device has no data port; nothing comes by the device's socket here.
        self.data = ports["vsock"] if "vsock" in ports else ports["data"]
        self.channel = Multiplexer(Role.GUEST)
        self.commands = LineReader()

    def run(self) -> int:
        """Until it is told to stop, or has gone wrong as it was told to."""
        self.console.sendall(b"booting\r\n")
        self.monitor.recv(4096)
        if "garbage-on-control" in self.behaviour:
            self.control.sendall(b"\x00\xff not JSON\n")
        if "endless-line" in self.behaviour:
            self.control.sendall(b"x" * 200_000)
        if "fails" in self.behaviour:
            self.say(Failed("no room for the keep\x1b[2J"))
        if "panics" in self.behaviour:
            return self.panic()
        if "crashes" in self.behaviour:
            self.console.sendall(b"last words\n")
            print("qemu: guest did something impossible", file=sys.stderr, flush=True)
            time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGSEGV)
        if "silent" in self.behaviour:
            time.sleep(3600)
        configuration = decode_configuration(self.read_line())
        self.say(Ready(CERTIFICATE))
        self.say(Alive())
        if "renews" in self.behaviour:
            self.say(Published(CERTIFICATE.replace("fake", "renewed")))
        self.console.sendall(f"serving {configuration.configuration.id}\n".encode())
        if "garbage-on-data" in self.behaviour:
            self.data.sendall(b"GET / HTTP/1.1\r\n\r\n" * 100)
        if "powers-off" in self.behaviour:
            return self.end("guest-shutdown")
        return self.serve()

    def serve(self) -> int:
        """Echo every stream of the data port until `stop`."""
        while True:
            readable, _, _ = select.select([self.control, self.data], [], [])
            if self.data in readable:
                received = self.data.recv(65536)
                if not received:
                    return 0
                for event in self.channel.receive(received):
                    self.echo(event)
                while output := self.channel.output():
                    self.channel.written(self.data.send(output))
            if self.control in readable:
                content = self.control.recv(65536)
                if not content:
                    return 0
                for line in self.commands.feed(content):
                    if isinstance(decode_command(line), Stop) and "deaf" not in self.behaviour:
                        self.say(Stopped())
                        return self.end("guest-shutdown")

    def echo(self, event: Event) -> None:
        match event:
            case Received(stream, data):
                self.channel.send(stream, data)
                self.channel.acknowledge(stream, len(data))
            case Ended(stream):
                self.channel.end(stream)
            case Aborted():
                pass

    def panic(self) -> int:
        """As a kernel with panic=-1."""
        self.console.sendall(b"Kernel panic - not syncing: Attempted to kill init!\n")
        return self.end("guest-reset")

    def end(self, reason: str) -> int:
        """QEMU tells of the end of the machine, and ends."""
        self.monitor.sendall(f'{{"event": "SHUTDOWN", "data": {{"guest": true, "reason": "{reason}"}}}}\n'.encode())
        return 0

    def say(self, event: GuestEvent) -> None:
        self.control.sendall(encode_line(event))

    def read_line(self) -> bytes:
        while not (lines := self.commands.feed(self.control.recv(65536))):
            pass
        return lines[0]


if __name__ == "__main__":
    sys.exit(FakeGuest(sys.argv[1:]).run())
