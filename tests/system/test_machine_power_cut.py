"""The host loses power while a machine writes: its disk has what was flushed, and of the rest what chance left."""

from __future__ import annotations

import os
import shutil
import struct
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from keep_client import Credentials, KeepClient, KeepClientError, ProblemError, new_spec
from keep_client.pins import KeepPin
from keep_loader.machine.disk import DISK_FILE, open_disk
from keep_protocol.errors import ErrorCode
from keep_protocol.guest_control import GuestConfiguration
from keep_protocol.spec import MiB
from keep_protocol.states import Backend, FileArea
from tests.guest_machine import Forwarder, GuestMachine, await_ready, configuration, running_machine
from tests.system.conftest import bootable
from tests.system.deployment import eventually
from tests.unit.app_loader.pki import self_signed

MKE2FS = shutil.which("mke2fs", path="/usr/sbin:/sbin:/usr/bin")
SECTOR = 512
FLUSH, DISCARD = 1, 4
SIZE = 128 * MiB
FILES = 5
"""Acknowledged before power fails."""
PATIENCE = 60.0


@dataclass(frozen=True)
class Write:
    """What a guest has written at once; empty where it had its writes flushed."""

    offset: int
    content: bytes
    flushes: bool
    logged: int
    """Where its entry ends in the log."""


def logged_writes(log: Path) -> Iterator[Write]:
    """QEMU's log of a disk, in order; Linux, Documentation/admin-guide/device-mapper/log-writes.rst."""
    with log.open("rb") as file:
        file.seek(SECTOR)
        while len(entry := file.read(SECTOR)) == SECTOR:
            sector, sectors, flags, _ = struct.unpack_from("<QQQQ", entry)
            # What is discarded may stay as it is.
            content = b"" if flags & DISCARD else file.read(sectors * SECTOR)
            yield Write(sector * SECTOR, content, bool(flags & FLUSH), file.tell())


def leave_after_power_cut(disk: Path, log: Path, since: int) -> None:
    """Make of a new disk the one that a power cut leaves, at the first moment after `since` bytes of the log at which
    several writes were under way. All that was flushed is there; of the others some are, in no order, and some in part.
    """
    flushed: list[Write] = []
    under_way: list[Write] = []
    for write in logged_writes(log):
        if not write.flushes:
            under_way.append(write)
        elif write.logged > since and len(under_way) > 1:
            break
        else:
            flushed += under_way
            under_way = []
    first, *others = under_way
    torn = [replace(write, content=write.content[: len(write.content) // 2 // SECTOR * SECTOR]) for write in others]
    assert first.content, "the first is lost"
    with disk.open("r+b") as file:
        for write in (*flushed, *torn):
            file.seek(write.offset)
            file.write(write.content)


@dataclass(frozen=True)
class Running:
    """A keep in a machine, and its owner."""

    machine: GuestMachine
    forwarder: Forwarder
    client: KeepClient

    def cut_power(self) -> None:
        self.machine.kill()
        self.forwarder.close()


@contextmanager
def keep_on(disk: Path, image: Path, told: GuestConfiguration, credentials: Credentials) -> Iterator[Running]:
    """The keep, in a machine that has this disk and logs what it writes there into a file beside it."""
    log = disk.with_suffix(".log")
    log.touch()
    node = (
        f"driver=blklogwrites,node-name=disk,file.driver=file,file.filename={disk},log.driver=file,log.filename={log}"
    )
    with running_machine(image, devices=("-blockdev", node, "-device", "virtio-blk-pci,drive=disk")) as machine:
        machine.tell(told)
        pin = KeepPin.from_certificate(await_ready(machine))
        forwarder = machine.forward()
        try:
            with KeepClient(forwarder.endpoint, pin, credentials=credentials) as client:
                yield Running(machine, forwarder, client)
        finally:
            forwarder.close()


def log_of(disk: Path) -> Path:
    return disk.with_suffix(".log")


class Writer:
    """Stores file after file, each of them in the place of the last one as well, for as long as it can."""

    def __init__(self, client: KeepClient, log: Path) -> None:
        self._client = client
        self._log = log
        self.sent: list[bytes] = []
        self.acknowledged: list[int] = []
        """How much was logged when the file of this number had been stored."""
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    def join(self) -> None:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def _write(self) -> None:
        with suppress(KeepClientError):
            while True:
                number = len(self.sent)
                self.sent.append(os.urandom(20_000 + number))
                for name in (f"file-{number}", "newest"):
                    self._client.put_file(FileArea.DATA, name, self.sent[-1])
                self.acknowledged.append(self._log.stat().st_size)


@pytest.fixture
def image(guest_image: Path) -> Path:
    return bootable(guest_image)


def test_what_was_acknowledged_survives_a_power_cut_and_what_was_not_is_whole_or_not_there(
    image: Path, tmp_path: Path
) -> None:
    if MKE2FS is None:
        pytest.skip("mke2fs is not installed: apt-get install e2fsprogs")
    owner = self_signed()
    file = owner.write(tmp_path)
    credentials = Credentials(file, file)
    spec = new_spec(principals=[owner.pinned()], backend=Backend.QEMU)
    told = configuration(spec, disk=True, sealing_keys=(b64encode(os.urandom(32)).decode(),))
    os.close(open_disk(MKE2FS, tmp_path, SIZE))
    disk = tmp_path / DISK_FILE
    left = Path(shutil.copyfile(disk, tmp_path / "left.ext4"))

    with keep_on(disk, image, told, credentials) as running:
        writer = Writer(running.client, log_of(disk))
        # One more than counts: power fails while it is written.
        eventually(lambda: len(writer.acknowledged) > FILES, timeout=PATIENCE)
        running.cut_power()
        writer.join()
    leave_after_power_cut(left, log_of(disk), writer.acknowledged[FILES - 1])

    with keep_on(left, image, told, credentials) as running:

        def stored(name: str) -> bytes | None:
            try:
                return b"".join(running.client.read_file(FileArea.DATA, name))
            except ProblemError as problem:
                if problem.code != ErrorCode.FILE_NOT_FOUND:
                    raise
                return None

        found = [stored(f"file-{number}") for number in range(len(writer.sent))]
        assert found[:FILES] == writer.sent[:FILES]
        assert all(content in (None, sent) for content, sent in zip(found, writer.sent, strict=True))
        assert None in found, "power failed later than it was to"
        assert stored("newest") in writer.sent[FILES - 1 :]
        running.cut_power()
