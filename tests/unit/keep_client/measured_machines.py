"""Machines whose boot a real TPM (swtpm) has measured, without the boot: a test extends what firmware would.

The endpoint in front of them is the keep-loader's own forwarder, and it leads where the host pleases.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from app_loader.attesters.interface import Attestation, Statement
from app_loader.attesters.tpm import quote
from app_loader.attesters.tpm_commands import Tpm
from app_loader.attesters.tpm_transport import SocketTransport
from app_loader.attesters.tpm_wire import Algorithm
from keep_attestation.event_log import EventType, HashAlgorithm
from keep_image.manifest import INITRAMFS, KERNEL, load_manifest
from keep_image.measurement.direct_boot import DirectBoot
from keep_loader.machine.dialling import TcpAddress, dial
from keep_loader.machine.forwarder import Forwarder
from keep_loader.machine.streams import SocketStream
from keep_protocol.evidence import EvidenceKind
from keep_protocol.guest_control import SPEC_PCR
from keep_protocol.spec import KeepSpec, canonical, spec_digest
from tests.swtpm import running_swtpm
from tests.unit.keep_attestation.event_log.forge import LogEvent, agile_log
from tests.unit.keep_client.attested_keeps import PATIENCE, Proof

MEMORY = 320 << 20
SHA256_BANK: Mapping[int, int] = {HashAlgorithm.SHA256: HashAlgorithm.SHA256.digest_size}

Measurement = tuple[int, bytes]
"""A register, and the digest that it is extended with."""


def boot_of(image: Path) -> list[Measurement]:
    """What firmware and kernel measure of this image in a machine of `MEMORY` bytes."""
    boot = DirectBoot(
        kernel=(image / KERNEL).read_bytes(),
        initrd=(image / INITRAMFS).read_bytes(),
        command_line=load_manifest(image).command_line,
        memory=MEMORY,
        qemu_version=(7, 2),
    )
    ((*started,), *_), ((*loaded,), *_) = boot.boot_events("sha256"), boot.stub_events("sha256")
    return [*((4, digest) for digest in started), *((9, digest) for digest in loaded)]


def log_of(measurements: Sequence[Measurement]) -> bytes:
    """The event log that a machine with this boot shows."""
    events: list[LogEvent] = [
        (register, EventType.EV_EVENT_TAG, {HashAlgorithm.SHA256: digest}, b"") for register, digest in measurements
    ]
    return agile_log(events, SHA256_BANK)


class MachineAttester:
    """What quotes inside a machine; `log` is what its kernel has of its boot."""

    kind = EvidenceKind.TPM

    def __init__(self, transport: SocketTransport, log: bytes) -> None:
        self.log = log
        self._transport = transport

    def attest(self, statement: Statement) -> Attestation:
        return Attestation(quote(self._transport, statement.qualifying_data), log=self.log)


@contextmanager
def measured_machine(
    spec: KeepSpec, boot: Sequence[Measurement], *, log: bytes | None = None, state: Path | None = None
) -> Iterator[Proof]:
    """What proves a keep with this spec whose machine has booted so; `state` is the folder of its TPM."""
    with running_swtpm(state=state) as path:
        transport = SocketTransport(str(path))
        try:
            tpm = Tpm(transport)
            for register, digest in (*boot, (SPEC_PCR, bytes.fromhex(spec_digest(canonical(spec))))):
                tpm.extend_pcr(register, {Algorithm.SHA256: digest})
            yield Proof(spec=spec, attester=MachineAttester(transport, log_of(boot) if log is None else log))
        finally:
            transport.close()


@contextmanager
def endpoint_leading_to(target: str) -> Iterator[str]:
    """A keep's public endpoint, which the host has lead to `target` (both `ADDRESS:PORT`)."""
    address, _, port = target.rpartition(":")
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    loop = asyncio.new_event_loop()
    over = asyncio.Event()

    async def reach() -> SocketStream:
        return await dial(TcpAddress(address, int(port)))

    async def serve() -> None:
        forwarder = Forwarder(listener, reach)
        running = asyncio.create_task(forwarder.run())
        await over.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await forwarder.close()

    serving = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    serving.start()
    try:
        yield "{}:{}".format(*listener.getsockname())
    finally:
        loop.call_soon_threadsafe(over.set)
        serving.join(PATIENCE)
        loop.close()
        listener.close()
