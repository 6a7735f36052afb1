"""A guest image in a real QEMU, without hardware's help: its console, its control port and a way in for clients."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from keep_image.manifest import INITRAMFS, KERNEL, load_manifest
from keep_loader.machine.command_line import TRANSLATED_PROCESSOR
from keep_protocol.channel import (
    DATA_PORT,
    KEEP_SERVICE,
    Aborted,
    Ended,
    Event,
    Multiplexer,
    Opened,
    Received,
    Role,
)
from keep_protocol.guest_control import (
    CONTROL_PORT,
    GUEST_PROTOCOL_VERSION,
    Command,
    GuestChannel,
    GuestConfiguration,
    GuestEvent,
    Ready,
    decode_event,
    encode_line,
)
from keep_protocol.handover import Configuration
from keep_protocol.spec import KeepSpec, canonical

FIRMWARE = Path("/usr/share/ovmf/OVMF.fd")
KEEP_ID = "0123456789abcdef"
PATIENCE = 55.0
"""Seconds that a machine may take for one thing, on a busy host without hardware's help."""


class GuestMachine:
    """One running machine."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self._process = process
        self._folder = folder
        self._control = _connect(folder / "control", process)
        self._control.settimeout(PATIENCE)
        self._lines = self._control.makefile("rb")

    def tell(self, message: GuestConfiguration | Command) -> None:
        self._control.sendall(encode_line(message))

    def next_event(self) -> GuestEvent:
        """What the guest says next, beats of its heart included."""
        line = self._lines.readline()
        assert line, f"the machine has ended: {self.console()}"
        return decode_event(line)

    def console(self) -> str:
        return (self._folder / "console").read_text(errors="replace")

    def data_port(self) -> socket.socket:
        """The host's end of the channel; one at a time."""
        return _connect(self._folder / "data", self._process)

    def forward(self) -> Forwarder:
        return Forwarder(self.data_port())

    def wait(self) -> int:
        """The exit status of QEMU, once the machine is off."""
        return self._process.wait(PATIENCE)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self._lines.close()
        self._control.close()
        self.kill()


def configuration(spec: KeepSpec, *, disk: bool = False, sealing_keys: tuple[str, ...] = ()) -> GuestConfiguration:
    """What a host hands over for a keep with this spec."""
    told = Configuration(
        id=KEEP_ID,
        deployment="0" * 8,
        spec=canonical(spec).decode(),
        domain="test",
        names=(),
        sealing_keys=sealing_keys,
    )
    return GuestConfiguration(
        version=GUEST_PROTOCOL_VERSION, configuration=told, invocation="0" * 32, channel=GuestChannel.SERIAL, disk=disk
    )


def await_ready(machine: GuestMachine) -> str:
    """The certificate of the keep, when it accepts connections."""
    event = machine.next_event()
    assert isinstance(event, Ready), (event, machine.console())
    return event.certificate


@contextmanager
def running_machine(
    image: Path, *, memory: int = 320, measured: bool = False, devices: Sequence[str] = ()
) -> Iterator[GuestMachine]:
    """The image in a machine with so many MiB; `measured`: booted by OVMF into a TPM. Skips where QEMU is missing.

    `devices` are further options for QEMU.
    """
    programs = ["qemu-system-x86_64", *(["swtpm"] if measured else [])]
    if missing := [name for name in programs if shutil.which(name) is None]:
        pytest.skip(f"{', '.join(missing)} not installed: apt-get install qemu-system-x86 ovmf swtpm")
    if measured and not FIRMWARE.is_file():
        pytest.skip(f"{FIRMWARE} is missing: apt-get install ovmf")
    with contextlib.ExitStack() as stack:
        # Not pytest's tmp_path: a UNIX socket's path must stay below 108 bytes.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vm-")))
        firmware = _start_tpm(stack, folder) if measured else []
        with (folder / "errors").open("wb") as errors:
            process = subprocess.Popen(
                ["qemu-system-x86_64", *_machine(image, folder, memory), *firmware, *devices],
                stdin=subprocess.DEVNULL,
                stderr=errors,
            )
        machine = GuestMachine(process, folder)
        stack.callback(machine.close)
        yield machine


def _machine(image: Path, folder: Path, memory: int) -> list[str]:
    manifest = load_manifest(image)
    return [
        # Never KVM: where it is only emulated it opens and crawls.
        *(
            "-M",
            "q35,smm=off",
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            TRANSLATED_PROCESSOR,
            "-m",
            str(memory),
            "-smp",
            "1",
        ),
        *("-nodefaults", "-no-user-config", "-display", "none", "-nic", "none", "-no-reboot"),
        *("-kernel", str(image / KERNEL), "-initrd", str(image / INITRAMFS), "-append", manifest.command_line),
        *("-serial", f"file:{folder}/console", "-device", "virtio-serial-pci"),
        *("-chardev", f"socket,id=control,path={folder}/control,server=on,wait=off"),
        *("-device", f"virtserialport,chardev=control,name={CONTROL_PORT}"),
        *("-chardev", f"socket,id=data,path={folder}/data,server=on,wait=off"),
        *("-device", f"virtserialport,chardev=data,name={DATA_PORT}"),
    ]


def _start_tpm(stack: contextlib.ExitStack, folder: Path) -> list[str]:
    state = folder / "tpm"
    state.mkdir()
    process = subprocess.Popen(
        [
            *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}"),
            *("--ctrl", f"type=unixio,path={folder}/tpm-control", "--flags", "startup-clear"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def end() -> None:
        process.kill()
        process.wait()

    stack.callback(end)
    _await_file(folder / "tpm-control", process)
    return [
        *("-bios", str(FIRMWARE), "-chardev", f"socket,id=tpm,path={folder}/tpm-control"),
        *("-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm0"),
    ]


def _await_file(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert process.poll() is None, "it ended at once"
        assert time.monotonic() < deadline, f"{path.name} did not appear"
        time.sleep(0.01)


def _connect(path: Path, process: subprocess.Popen[bytes]) -> socket.socket:
    _await_file(path, process)
    deadline = time.monotonic() + PATIENCE
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    while True:
        try:
            connection.connect(str(path))
        except ConnectionRefusedError:
            # It has a name before anybody listens.
            assert time.monotonic() < deadline, f"nobody listens at {path.name}"
            time.sleep(0.01)
        else:
            return connection


class Forwarder:
    """Lets clients in: a TCP port whose connections are streams of the data channel. For tests, with threads."""

    def __init__(self, port: socket.socket) -> None:
        self._port = port
        self._multiplexer = Multiplexer(Role.HOST)
        self._changed = threading.Condition()
        self._clients: dict[int, socket.socket] = {}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.carried = bytearray()
        """All bytes that the host has seen, in both directions."""
        for work in (self._accept, self._read_port, self._write_port):
            threading.Thread(target=work, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return "{}:{}".format(*self._listener.getsockname())

    def close(self) -> None:
        # Shut down first: a thread that blocks in a call would not notice that its socket is closed.
        for each in (self._port, self._listener, *self._clients.values()):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with self._changed:
                    stream = self._multiplexer.open(KEEP_SERVICE)
                    self._clients[stream] = client
                    self._changed.notify_all()
                threading.Thread(target=self._read_client, args=(stream, client), daemon=True).start()

    def _read_client(self, stream: int, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                self.carried += data
                while data:
                    with self._changed:
                        while not self._multiplexer.writable(stream):
                            if stream not in self._multiplexer.streams:
                                return
                            self._changed.wait(PATIENCE)
                        data = data[self._multiplexer.send(stream, data) :]
                        self._changed.notify_all()
            with self._changed:
                if stream in self._multiplexer.streams:
                    self._multiplexer.end(stream)
                    self._changed.notify_all()

    def _read_port(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._port.recv(65536):
                with self._changed:
                    for event in self._multiplexer.receive(data):
                        self._pass_on(event)
                    self._changed.notify_all()

    def _pass_on(self, event: Event) -> None:
        assert not isinstance(event, Opened), "no guest opens streams"
        client = self._clients[event.stream]
        with contextlib.suppress(OSError):
            if isinstance(event, Received):
                self.carried += event.data
                client.sendall(event.data)
                self._multiplexer.acknowledge(event.stream, len(event.data))
            elif isinstance(event, Ended):
                client.shutdown(socket.SHUT_WR)
            elif isinstance(event, Aborted):
                client.shutdown(socket.SHUT_RDWR)

    def _write_port(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                with self._changed:
                    while not (data := self._multiplexer.output()):
                        self._changed.wait()
                    self._multiplexer.written(len(data))
                    self._changed.notify_all()
                self._port.sendall(data)
