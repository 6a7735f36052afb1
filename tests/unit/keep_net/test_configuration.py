"""What a broker reads when it starts, and how it ends when that is not what it says."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest

from keep_net.configuration import read_configuration
from keep_net.errors import ConfigurationError
from keep_net.resolution import SystemResolver
from keep_protocol.broker import CONFIGURATION_NAME, SOCKET_FOLDER, BrokerConfiguration
from keep_protocol.handover import BROKER_SOCKET
from keep_protocol.network_policy import NetworkPolicy
from keep_protocol.spec import canonical, spec_digest
from tests.unit.app_loader.execution_harness import spec
from tests.unit.keep_net.brokered import policy_of


def configuration(policy: NetworkPolicy, **changes: object) -> bytes:
    raw = canonical(msgspec.structs.replace(spec(), network=policy))
    whole = BrokerConfiguration(1, raw.decode(), spec_digest(raw), "127.0.0.1")
    return msgspec.json.encode(msgspec.structs.replace(whole, **changes))


def test_a_configuration_with_the_digest_that_it_names_is_taken(tmp_path: Path) -> None:
    (file := tmp_path / CONFIGURATION_NAME).write_bytes(configuration(policy_of(["example.com"], listen=[8080])))
    allowed = read_configuration(file)
    assert allowed.listen == {8080}
    assert [rule.name for rule in allowed.egress.allow] == ["allow[0] example.com:443"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (configuration(policy_of(), spec_digest="0" * 64), "another"),
        (configuration(policy_of(["a.com"])).replace(b"a.com", b"b.com"), "another"),
        (configuration(policy_of(), spec="{}", spec_digest=spec_digest(b"{}")), "malformed"),
        (configuration(policy_of(), listen_address="localhost"), "malformed"),
        (configuration(policy_of()).replace(b'"version":1', b'"version":2'), "malformed"),
        (b"", "malformed"),
        (b"\xff", "malformed"),
    ],
)
def test_another_one_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (file := tmp_path / CONFIGURATION_NAME).write_bytes(content)
    with pytest.raises(ConfigurationError, match=reason):
        read_configuration(file)


def _start(folder: Path) -> subprocess.Popen[str]:
    environment = {"WASMKEEP_BROKER_FOLDER": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "keep_net", "instance"]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def test_a_broker_that_has_nothing_to_go_by_ends_for_good() -> None:
    with TemporaryDirectory(prefix="wk") as folder, _start(Path(folder)) as broker:
        _, said = broker.communicate(timeout=60)
        assert broker.returncode == 78
        assert said.startswith("keep-net: ")


def test_a_broker_tells_when_it_serves_and_ends_when_it_is_told_to() -> None:
    with (
        TemporaryDirectory(prefix="wk") as name,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify,
    ):
        folder = Path(name)
        (folder / CONFIGURATION_NAME).write_bytes(configuration(policy_of(["example.com"])))
        (folder / SOCKET_FOLDER).mkdir()
        notify.bind(str(folder / "notify"))
        notify.settimeout(60)
        environment = {
            "WASMKEEP_BROKER_FOLDER": name,
            "NOTIFY_SOCKET": str(folder / "notify"),
            "WATCHDOG_USEC": "30000000",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        with subprocess.Popen([sys.executable, "-m", "keep_net", "instance"], env=environment) as broker:
            said = notify.recv(4096)
            while b"READY=1" not in said:
                said = notify.recv(4096)
            assert (folder / BROKER_SOCKET).is_socket()
            broker.send_signal(signal.SIGTERM)
            assert broker.wait(timeout=60) == 0
        assert not (folder / BROKER_SOCKET).exists()


def test_the_resolver_of_the_system_knows_the_names_of_the_hosts_file() -> None:

    async def run() -> None:
        resolver = SystemResolver()
        try:
            assert "127.0.0.1" in map(str, await resolver("localhost"))
        finally:
            resolver.close()

    asyncio.run(run())
