"""Enarx's black-box cases (its tests/wasm/mod.rs), with an Enarx.toml each, through `keepctl run --config`."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.deployment import BIN, Deployment, eventually, example, guest
from tests.system.test_network import free_port

STREAMS = "".join(f'[[files]]\nkind = "{kind}"\n' for kind in ("stdin", "stdout", "stderr"))


@pytest.fixture
def enarx_toml(tmp_path: Path) -> Path:
    """The file with which most of the cases ran."""
    (path := tmp_path / "Enarx.toml").write_text(STREAMS)
    return path


def run(deployment: Deployment, config: Path, wasm: Path, content: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [BIN / "keepctl", "--home", deployment.home, "run", "--config", config, wasm]
    return subprocess.run([*map(str, command)], input=content, capture_output=True, timeout=120, check=False)


def test_return_1(deployment: Deployment, enarx_toml: Path) -> None:
    """What the function returns is no exit status."""
    done = run(deployment, enarx_toml, guest("return_1"))
    assert (done.returncode, done.stdout) == (0, b"")


def test_hello_wasi_snapshot1(deployment: Deployment, enarx_toml: Path) -> None:
    done = run(deployment, enarx_toml, example("hello"))
    assert (done.returncode, done.stdout) == (0, b"Hello, world!\n")


@pytest.mark.parametrize("name", ["no_export", "no_start"])
def test_no_export(deployment: Deployment, enarx_toml: Path, name: str) -> None:
    done = run(deployment, enarx_toml, guest(name))
    assert (done.returncode, done.stdout) == (1, b"")
    assert (b"there is nothing to run or to call" if name == "no_export" else b"no command") in done.stderr


def test_echo(deployment: Deployment, enarx_toml: Path) -> None:
    content = bytes(i % 256 for i in range(2 * 1024 * 1024))
    done = run(deployment, enarx_toml, example("echo"), content=content)
    assert (done.returncode, done.stdout) == (0, content)


def test_memspike(deployment: Deployment, enarx_toml: Path) -> None:
    assert run(deployment, enarx_toml, guest("memspike")).returncode == 0


def test_memory_stress_test(deployment: Deployment, enarx_toml: Path) -> None:
    enarx_toml.write_text(f'args = ["stress"]\n{STREAMS}')
    assert run(deployment, enarx_toml, guest("memspike")).returncode == 0


def test_zerooneone(deployment: Deployment, enarx_toml: Path) -> None:
    said = b"Good morning, that's a nice tnetennba.\n0118 999 881 999 119 725 3\n"
    done = run(deployment, enarx_toml, guest("zerooneone"), content=said)
    assert (done.returncode, done.stdout) == (
        0,
        b"Tbbq zbeavat, gung'f n avpr gargraaon.\n0118 999 881 999 119 725 3\n",
    )


@contextlib.contextmanager
def echoing() -> Iterator[int]:
    """A TCP server on loopback that sends back all it gets from one client; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    while block := connection.recv(65536):
                        connection.sendall(block)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_connect_tcp(deployment: Deployment, enarx_toml: Path) -> None:
    """By default, blocking and non-blocking, on one connection after the other: the guest asserts what it gets."""
    with echoing() as port:
        enarx_toml.write_text(
            f'args = ["connect"]\n{STREAMS}'
            f'[[files]]\nkind = "connect"\nprot = "tcp"\nhost = "127.0.0.1"\nport = {port}\nname = "stream"\n'
        )
        done = run(deployment, enarx_toml, guest("sock_lines"))
    assert (done.returncode, done.stdout) == (0, b"done\n")


def answered(port: int, prot: str) -> bool:
    """Whether three lines come back, one by one."""
    with contextlib.ExitStack() as opened:
        try:
            connection = opened.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            if prot == "tls":
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                connection = opened.enter_context(context.wrap_socket(connection))
                assert connection.version() == "TLSv1.3"
            lines = opened.enter_context(connection.makefile("rwb"))
            for _ in range(3):
                lines.write(b"test\n")
                lines.flush()
                assert lines.readline() == b"test\n"
        except ConnectionError:
            return False
        return True


def listens(deployment: Deployment, enarx_toml: Path, prot: str) -> None:
    """Three connections with three lines each, accepted by default, blocking and non-blocking."""
    port = free_port()
    enarx_toml.write_text(
        f'args = ["listen"]\n{STREAMS}'
        f'[[files]]\nkind = "listen"\nprot = "{prot}"\nport = {port}\nname = "ingest"\n'
        f'[[files]]\nkind = "listen"\nprot = "tcp"\nport = {free_port()}\nname = "ping"\n'
    )
    command = [BIN / "keepctl", "--home", deployment.home, "run", "--config", enarx_toml, guest("sock_lines")]
    with subprocess.Popen([*map(str, command)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        for _ in range(3):
            eventually(lambda: answered(port, prot))
        assert process.communicate(timeout=60)[0] == b"done\n"
    assert process.returncode == 0


def test_listen_tcp(deployment: Deployment, enarx_toml: Path) -> None:
    listens(deployment, enarx_toml, "tcp")


def test_listen_tls(deployment: Deployment, enarx_toml: Path) -> None:
    listens(deployment, enarx_toml, "tls")
