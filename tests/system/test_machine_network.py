"""The network of keeps that are virtual machines: through the machine's channel and a real broker, to real servers."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

from tests.system.deployment import BIN, GUEST_MEMORY, Deployment, eventually, guest, one_supervisor
from tests.system.test_enarx_cases import STREAMS, answered, echoing
from tests.system.test_network import free_port


@one_supervisor
def test_a_machine_connects_and_listens_where_its_spec_lets_it(machine_deployment: Deployment, tmp_path: Path) -> None:
    deployment = machine_deployment
    port, other, workload = free_port(), free_port(), str(guest("sock_lines"))
    with echoing() as server:
        allowed = (
            "--listen",
            str(port),
            "--listen",
            str(other),
            "--egress-allow",
            f"127.0.0.1:{server}+private",
            "--egress-allow",
            f"localhost:{server}",
        )
        keep = deployment.create("--backend", "qemu", "--memory", GUEST_MEMORY, *allowed)["id"]
        (tmp_path / "connect.toml").write_text(
            f'args = ["connect"]\n{STREAMS}'
            f'[[files]]\nkind = "connect"\nprot = "tcp"\nhost = "127.0.0.1"\nport = {server}\nname = "stream"\n'
        )
        run = deployment.keepctl("run", "--keep", keep, "--config", str(tmp_path / "connect.toml"), workload)
        assert run.stdout == "done\n"
    # Nobody is there any more: the broker's refusal comes all the way in.
    gone = deployment.keepctl("run", "--keep", keep, "--config", str(tmp_path / "connect.toml"), workload, check=False)
    assert gone.returncode != 0
    assert "Connection refused" in gone.stderr
    # The name is allowed, and its address is the host's own.
    explained = deployment.keepctl("egress", "explain", keep, f"http://localhost:{server}/", check=False)
    assert "127.0.0.1 is loopback" in explained.stdout

    (tmp_path / "listen.toml").write_text(
        f'args = ["listen"]\n{STREAMS}[[files]]\nkind = "listen"\nprot = "tls"\nport = {port}\nname = "ingest"\n'
        f'[[files]]\nkind = "listen"\nprot = "tcp"\nport = {other}\nname = "ping"\n'
    )
    command = [BIN / "keepctl", "--home", deployment.home, "run", "--keep", keep, "--config", tmp_path / "listen.toml"]
    # A second run finds the port free again, though the host listens until somebody has found nobody there.
    for _ in range(2):
        with subprocess.Popen([*map(str, command), workload], stdout=subprocess.PIPE) as listening:
            for _ in range(3):
                eventually(lambda: is_answered(port), timeout=60)
            assert listening.communicate(timeout=60)[0] == b"done\n"
        assert listening.returncode == 0
    deployment.keepctl("rm", keep)


def is_answered(port: int) -> bool:
    """As `answered`, where what breaks off before the run listens may be a handshake."""
    with contextlib.suppress(OSError):
        return answered(port, "tls")
    return False
