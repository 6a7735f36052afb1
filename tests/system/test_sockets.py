"""Guests with sockets in keeps of a real deployment: through the sandbox, the broker and the keep's own TLS."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.deployment import BIN, Deployment, eventually
from tests.system.test_network import free_port

GUESTS = Path(__file__).resolve().parents[1] / "guests"
STREAMS = "".join(f'[[files]]\nkind = "{kind}"\n' for kind in ("stdin", "stdout", "stderr"))


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


def connected(port: int, prot: str) -> socket.socket:
    plain = socket.create_connection(("127.0.0.1", port), timeout=30)
    if prot == "tcp":
        return plain
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(plain)


def answers(port: int, prot: str) -> bool:
    """Whether three lines come back, one by one."""
    try:
        with connected(port, prot) as connection, connection.makefile("rwb") as lines:
            for _ in range(3):
                lines.write(b"test\n")
                lines.flush()
                assert lines.readline() == b"test\n"
            return True
    except ConnectionError:
        return False


@pytest.mark.parametrize("prot", ["tcp", "tls"])
def test_an_enarx_file_with_listening_sockets_runs_unchanged(deployment: Deployment, tmp_path: Path, prot: str) -> None:
    port, other = free_port(), free_port()
    (tmp_path / "Enarx.toml").write_text(
        f'args = ["listen"]\n{STREAMS}'
        f'[[files]]\nkind = "listen"\nprot = "{prot}"\nport = {port}\nname = "ingest"\n'
        f'[[files]]\nkind = "listen"\nprot = "tcp"\nport = {other}\nname = "ping"\n'
    )
    command = [BIN / "keepctl", "--home", deployment.home, "run", "--config", tmp_path / "Enarx.toml"]
    with subprocess.Popen([*map(str, command), str(GUESTS / "sock_lines.wasm")], stdout=subprocess.PIPE) as run:
        for _ in range(3):
            eventually(lambda: answers(port, prot))
        assert run.communicate(timeout=60)[0] == b"done\n"
    assert run.returncode == 0


def test_an_enarx_file_with_a_connecting_socket_runs_unchanged(deployment: Deployment, tmp_path: Path) -> None:
    with echoing() as port:
        (tmp_path / "Enarx.toml").write_text(
            f'args = ["connect"]\n{STREAMS}'
            f'[[files]]\nkind = "connect"\nprot = "tcp"\nhost = "127.0.0.1"\nport = {port}\nname = "stream"\n'
        )
        run = deployment.keepctl("run", "--config", str(tmp_path / "Enarx.toml"), str(GUESTS / "sock_lines.wasm"))
    assert run.stdout == "done\n"


def test_a_keep_whose_spec_does_not_name_the_port_refuses_the_file(deployment: Deployment, tmp_path: Path) -> None:
    (tmp_path / "Keep.toml").write_text(
        f'{STREAMS}[[files]]\nkind = "listen"\nprot = "tcp"\nport = 7000\nname = "web"\n'
    )
    keep = deployment.create()
    loading = ("load", keep["id"], str(GUESTS / "sock_lines.wasm"), "--config", str(tmp_path / "Keep.toml"))
    refused = deployment.keepctl(*loading, check=False)
    assert refused.returncode != 0
    assert "port 7000" in refused.stderr
    assert deployment.json("show", keep["id"])["keep"]["state"] == "ready"
    deployment.keepctl("rm", keep["id"])
