"""Keeps with a network: connections and ports through a real broker, whatever is killed meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.deployment import Deployment, eventually, process_lines

# Runs with the code and in the namespaces of a keep, and asks its broker as its server does.
_PROBE = """
import asyncio, json, sys
from pathlib import Path
from app_loader.errors import AppLoaderError
from app_loader.events import Events
from app_loader.network import Network
from keep_protocol.spec import canonical, decode_spec, spec_digest

async def main():
    spec = decode_spec(sys.argv[1].encode())
    events = Events()
    network = Network(spec.network, spec_digest(canonical(spec)), Path(sys.argv[2]), events)
    loop = asyncio.get_running_loop()
    told = {"interfaces": sorted(line.split(":")[0].strip() for line in open("/proc/self/net/dev").readlines()[2:])}
    try:
        for word in sys.argv[3:]:
            what, _, where = word.partition("=")
            if what == "bind":
                listener = await network.bind(int(where))
                print("listening", flush=True)
                client, _ = await loop.sock_accept(listener)
                told["accepted"] = (await loop.sock_recv(client, 100)).decode()
            else:
                host, _, port = where.rpartition(":")
                with await network.connect(host, int(port)) as connection:
                    await loop.sock_sendall(connection, b"ping")
                    told["answered"] = (await loop.sock_recv(connection, 100)).decode()
    except AppLoaderError as error:
        told["refused"] = f"{type(error).__name__}: {error}"
    told["events"] = [event.kind for event in events.page(0, 100).events]
    print(json.dumps(told))

asyncio.run(main())
"""


@contextlib.contextmanager
def answering() -> Iterator[int]:
    """A TCP server on loopback that sends back what it gets, in upper case; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.sendall(connection.recv(100).upper())

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            # Closing alone does not wake who waits in accept().
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def free_port() -> int:
    """A port on which nobody listens now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def probe(deployment: Deployment, keep_id: str, *words: str, **options: Any) -> subprocess.Popen[str]:
    """`_PROBE` in the keep's view of the machine, as a process; `words` are `connect=HOST:PORT` and `bind=PORT`."""
    shown = deployment.json("show", keep_id)
    spec = json.dumps(shown["spec"])
    command = [sys.executable, "-I", "-c", _PROBE, spec]
    if deployment.supervisor == "detached":
        command.append(str(_shared_folder(deployment, keep_id) / "socket" / "net.sock"))
    else:
        pid = shown["keep"]["pid"]
        user = str(Path(f"/proc/{pid}").stat().st_uid)
        into = [
            "nsenter",
            "--target",
            str(pid),
            "--mount",
            "--net",
            "--",
            "setpriv",
            f"--reuid={user}",
            f"--regid={user}",
        ]
        command = [*into, "--clear-groups", "--", *command, "/tmp/wasmkeep-net/socket/net.sock"]
    return subprocess.Popen([*command, *words], stdout=subprocess.PIPE, text=True, cwd="/", **options)


def told_by(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a probe found out."""
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    told: dict[str, Any] = json.loads(output.splitlines()[-1])
    return told


def _shared_folder(deployment: Deployment, keep_id: str) -> Path:
    runtime = json.loads((deployment.home / "manager.json").read_text())["runtime"]
    return Path(runtime) / "net" / f"{deployment.deployment_id}-{keep_id}"


def broker_of(deployment: Deployment, keep_id: str) -> int | None:
    """The pid of a keep's broker."""
    instance = f"{deployment.deployment_id}-{keep_id}"
    started = ("-m keep_net ", "from keep_net.__main__ import start")
    found = [pid for pid, line in process_lines() if instance in line and any(word in line for word in started)]
    return found[0] if found else None


def broker_state(deployment: Deployment, keep_id: str) -> str | None:
    """What `keepctl show` says of it."""
    state: str | None = deployment.json("show", keep_id)["broker"]["state"]
    return state


def test_a_keep_reaches_whom_its_spec_names_and_nobody_else(deployment: Deployment) -> None:
    with answering() as port, answering() as other:
        keep = deployment.create("--egress-allow", f"127.0.0.1:{port}+private")
        told = told_by(probe(deployment, keep["id"], f"connect=127.0.0.1:{port}"))
        assert told["answered"] == "PING"
        assert told["events"] == []
        if deployment.supervisor != "detached":
            assert told["interfaces"] == ["lo"]
        refused = told_by(probe(deployment, keep["id"], f"connect=127.0.0.1:{other}"))
        assert refused["refused"].startswith("EgressDeniedError")
        assert refused["events"] == ["egress-denied"]
        deployment.keepctl("rm", keep["id"])


def test_a_name_that_resolves_to_an_address_of_the_host_is_refused(deployment: Deployment) -> None:
    with answering() as port:
        keep = deployment.create("--egress-allow", f"localhost:{port}")
        told = told_by(probe(deployment, keep["id"], f"connect=localhost:{port}"))
        assert "is loopback" in told["refused"]
        explained = deployment.keepctl("egress", "explain", keep["id"], f"http://LOCALHOST.:{port}/", check=False)
        assert explained.returncode == 1
        assert "127.0.0.1 is loopback, and the rule does not say `private`" in explained.stdout
        deployment.keepctl("rm", keep["id"])


def test_a_keep_listens_on_the_ports_of_its_spec(deployment: Deployment) -> None:
    port = free_port()
    keep = deployment.create("--listen", str(port))
    with probe(deployment, keep["id"], f"bind={port}") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        again = told_by(probe(deployment, keep["id"], f"bind={port}"))
        assert again["refused"].startswith(f"PortTakenError: port {port} of `network.listen` at 127.0.0.1 is taken")
        with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
            client.sendall(b"hello")
            assert told_by(process)["accepted"] == "hello"
    other = told_by(probe(deployment, keep["id"], f"bind={port + 1}"))
    assert other["refused"] == f"EgressDeniedError: the spec's `network.listen` does not name port {port + 1}"
    deployment.keepctl("rm", keep["id"])


def test_a_port_that_is_taken_is_refused_by_name_before_anything_is_made(deployment: Deployment) -> None:
    with answering() as port:
        refused = deployment.keepctl("create", "--listen", str(port), check=False)
    assert refused.returncode == 1
    assert f"port {port} is taken" in refused.stderr
    assert "spec.network.listen[0]" in refused.stderr
    keep = deployment.create("--listen", str(port := free_port()))
    second = deployment.keepctl("create", "--listen", str(port), check=False)
    assert "another keep has it" in second.stderr
    deployment.keepctl("rm", keep["id"])


def test_a_broker_outlives_the_manager_and_comes_back_when_it_is_killed(fresh_deployment: Deployment) -> None:
    with answering() as port:
        keep = fresh_deployment.create("--egress-allow", f"127.0.0.1:{port}+private")
        broker = broker_of(fresh_deployment, keep["id"])
        assert broker is not None
        fresh_deployment.kill_manager()
        os.kill(broker, signal.SIGKILL)
        fresh_deployment.serve()
        assert told_by(probe(fresh_deployment, keep["id"], f"connect=127.0.0.1:{port}"))["answered"] == "PING"
        second = broker_of(fresh_deployment, keep["id"])
        assert second not in (None, broker)
        assert fresh_deployment.keep(keep["id"])["pid"] == keep["pid"]
        eventually(lambda: broker_state(fresh_deployment, keep["id"]) == "active")


def test_a_broker_goes_with_its_keep(fresh_deployment: Deployment) -> None:
    port = free_port()
    keep = fresh_deployment.create("--listen", str(port))
    folder = _shared_folder(fresh_deployment, keep["id"])
    assert (folder / "broker.json").exists()
    fresh_deployment.keepctl("stop", keep["id"])
    assert broker_of(fresh_deployment, keep["id"]) is None
    fresh_deployment.keepctl("start", keep["id"])
    assert broker_of(fresh_deployment, keep["id"]) is not None
    assert broker_state(fresh_deployment, keep["id"]) == "active"
    fresh_deployment.keepctl("rm", keep["id"])
    assert broker_of(fresh_deployment, keep["id"]) is None
    assert not folder.exists()


def test_a_keep_whose_spec_names_no_network_has_no_broker(deployment: Deployment) -> None:
    keep = deployment.create()
    assert deployment.json("show", keep["id"])["broker"] is None
    assert broker_of(deployment, keep["id"]) is None
    denied = deployment.keepctl("egress", "explain", keep["id"], "https://example.com", check=False)
    assert denied.returncode == 1
    assert "the spec allows no egress" in denied.stdout
    deployment.keepctl("rm", keep["id"])


def test_a_broker_without_a_keep_is_an_orphan(fresh_deployment: Deployment) -> None:
    keep = fresh_deployment.create("--listen", str(free_port()))
    fresh_deployment.kill_manager()
    for suffix in ("", "-wal", "-shm"):
        (fresh_deployment.home / "state" / f"manager.db{suffix}").unlink(missing_ok=True)
    fresh_deployment.serve()
    instance = f"{fresh_deployment.deployment_id}-{keep['id']}"
    listed = fresh_deployment.keepctl("ls")
    assert f"keep-net@{instance}" in listed.stderr
    assert broker_of(fresh_deployment, keep["id"]) is not None


def test_no_other_keep_gets_to_a_broker(deployment: Deployment) -> None:
    if deployment.supervisor == "detached":
        pytest.skip("`detached` promises no sandbox")
    mine, other = deployment.create("--listen", str(free_port())), deployment.create()
    folder = _shared_folder(deployment, mine["id"])
    user = str(Path(f"/proc/{other['pid']}").stat().st_uid)
    look = ["nsenter", "--target", str(other["pid"]), "--mount", "--", "setpriv", f"--reuid={user}", "--clear-groups"]
    seen = subprocess.run([*look, "--", "ls", str(folder), "/tmp/wasmkeep-net"], capture_output=True, text=True)
    assert seen.stdout == ""
    assert "Permission denied" in seen.stderr
    for keep in (mine, other):
        deployment.keepctl("rm", keep["id"])
