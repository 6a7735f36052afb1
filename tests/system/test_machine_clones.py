"""Keeps whose machines are clones of one template: what they must not share, what they can do, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import wasmtime
from cryptography import x509

from keep_manager.keep_file import spki_digest
from keep_manager.machines.template_files import MANIFEST, MEMORY
from keep_manager.machines.templates import FOLDER
from tests.system.conftest import bootable
from tests.system.deployment import BIN, GUEST_MEMORY, Deployment, eventually, guest, one_supervisor, running
from tests.system.test_enarx_cases import STREAMS, echoing
from tests.system.test_machines import BOOT, create, is_ready_again, programs

pytestmark = one_supervisor

RANDOM_AND_TIME = """
(module
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $time (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\\40\\00\\00\\00\\28\\00\\00\\00")
  (func (export "_start")
    (drop (call $random (i32.const 64) (i32.const 32)))
    (drop (call $time (i32.const 0) (i64.const 1) (i32.const 96)))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))
"""
"""Writes 32 random bytes and the nanoseconds since 1970."""


@pytest.fixture
def image(guest_image: Path, tmp_path: Path) -> Path:
    """An image of this test's own, for templates are kept with it."""
    return Path(shutil.copytree(bootable(guest_image), tmp_path / "image"))


@pytest.fixture
def machines(supervisor: str, image: Path) -> Iterator[Deployment]:
    with tempfile.TemporaryDirectory(prefix="wk") as home, running(Path(home) / "home", supervisor, image) as new:
        yield new


@dataclass(frozen=True)
class Drawn:
    """What must differ between two clones, and the time that one has; `asked` is the host's, just before."""

    key: str
    handshake: bytes
    random: bytes
    asked: float
    clock: float


def draw(deployment: Deployment, keep: str, program: Path) -> Drawn:
    certificate = x509.load_pem_x509_certificate(deployment.keep(keep)["certificate"].encode())
    command = [str(BIN / "keepctl"), "--home", str(deployment.home), "run", "--keep", keep, str(program)]
    asked = time.time()
    output = subprocess.run(command, capture_output=True, check=True).stdout
    clock = int.from_bytes(output[32:], "little") / 1e9
    return Drawn(spki_digest(certificate), server_random(deployment.keep(keep)["endpoint"]), output[:32], asked, clock)


def server_random(endpoint: str) -> bytes:
    """What OpenSSL has drawn for a handshake: RFC 8446, 4.1.3."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    outgoing = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    host, _, port = endpoint.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(outgoing.read())
        answer = b""
        while len(answer) < 43:
            received = connection.recv(4096)
            assert received
            answer += received
    assert (answer[0], answer[5]) == (22, 2), "a handshake record with a ServerHello"
    return answer[11:43]


def started_as(deployment: Deployment, keep: str) -> dict[str, str]:
    found: dict[str, str] = deployment.json("show", keep)["start"]
    return found


def test_clones_of_a_template_are_keeps_of_their_own(machines: Deployment, image: Path, tmp_path: Path) -> None:
    program = tmp_path / "random.wasm"
    program.write_bytes(wasmtime.wat2wasm(RANDOM_AND_TIME))
    template = ("image", "template", "--home", str(machines.home))
    machines.run("keep-manager", *template, "--memory", GUEST_MEMORY, timeout=BOOT)
    made = time.time()
    assert (
        "template           for 320 MiB and 1 processor"
        in machines.run("keep-manager", "doctor", "--home", str(machines.home), check=False).stdout
    )

    with echoing() as server:
        keep = create(machines, "qemu")
        other = create(machines, "qemu", "--egress-allow", f"127.0.0.1:{server}+private")
        assert started_as(machines, keep) == started_as(machines, other) == {"kind": "clone", "reason": ""}
        one, two = draw(machines, keep, program), draw(machines, other, program)
        (tmp_path / "connect.toml").write_text(
            f'args = ["connect"]\n{STREAMS}'
            f'[[files]]\nkind = "connect"\nprot = "tcp"\nhost = "127.0.0.1"\nport = {server}\nname = "stream"\n'
        )
        config = ("--config", str(tmp_path / "connect.toml"), str(guest("sock_lines")))
        assert machines.keepctl("run", "--keep", other, *config).stdout == "done\n"
    assert one.key != two.key
    assert one.handshake != two.handshake
    assert one.random != two.random
    machines.keepctl("rm", other)

    # A clone that died is another clone afterwards, with the keep's own disk.
    machines.keepctl("put", keep, "-", "/data/kept", input="of this keep")
    (qemu,) = programs(machines, "qemu-system")
    killed = time.time()
    os.kill(qemu, signal.SIGKILL)
    eventually(lambda: is_ready_again(machines, keep, 1), timeout=BOOT)
    assert started_as(machines, keep)["kind"] == "clone"
    assert machines.keepctl("get", keep, "/data/kept", "-").stdout == "of this keep"
    again = draw(machines, keep, program)
    assert again.key != one.key
    # By itself its clock went on from the moment in which the template was frozen, and would be late by more than this.
    assert again.asked - again.clock < (killed - made) / 2

    # What somebody has changed is nobody's template.
    memory = image / FOLDER / GUEST_MEMORY.replace("M", "M-1") / MEMORY
    with memory.open("r+b") as file:
        file.seek(1 << 20)
        byte = file.read(1)
        file.seek(1 << 20)
        file.write(bytes([byte[0] ^ 1]))
    machines.keepctl("stop", keep)
    machines.keepctl("start", keep, timeout=BOOT)
    assert started_as(machines, keep)["kind"] == "cold"
    assert "template-damaged" in machines.keepctl("show", keep).stdout
    assert machines.keepctl("get", keep, "/data/kept", "-").stdout == "of this keep"

    assert json.loads((memory.parent / MANIFEST).read_text())["key"]["memory"] == 320
    assert machines.run("keep-manager", *template, "--remove").stdout == "removed 320M-1\n"
    assert not (image / FOLDER).exists()
