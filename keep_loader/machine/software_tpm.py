"""A TPM in software (swtpm) for one machine. It is the host's: what it proves is worth what the host is worth."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path
from typing import Final

from keep_loader.errors import MachineError
from keep_loader.machine.children import Child

_MANUFACTURE_DEADLINE: Final = 30.0
_STATE_FILE: Final = "tpm2-00.permall"


def manufacture(swtpm: str, state: Path) -> None:
    """Make a new TPM in the folder `state`, unless one is there. Raises `MachineError`.

    One bank of registers: firmware measures into every bank there is, and a translated machine hashes slowly.
    """
    if (state / _STATE_FILE).exists():
        return
    state.mkdir(mode=0o700, exist_ok=True)
    # Without a configuration it would look for one of the system's and of a home that nobody has here.
    (state / "setup.conf").touch()
    command = [f"{swtpm}_setup", "--tpm2", "--tpmstate", str(state), "--pcr-banks", "sha256", "--overwrite"]
    command += ["--config", str(state / "setup.conf"), "--tpm", f"{swtpm} socket"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_MANUFACTURE_DEADLINE, check=False)
    except OSError as error:
        raise MachineError(f"no TPM can be made: {command[0]}: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise MachineError(f"no TPM can be made: swtpm_setup took more than {_MANUFACTURE_DEADLINE:g} s") from None
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip().splitlines()
        raise MachineError(f"no TPM can be made: {said[-1][:300] if said else f'exit status {done.returncode}'}")


def start(swtpm: str, state: Path) -> tuple[Child, socket.socket]:
    """The running TPM, and QEMU's end of its control channel. Raises `MachineError`."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs:
        try:
            child = Child(
                "swtpm",
                [
                    *(swtpm, "socket", "--tpm2", "--tpmstate", f"dir={state}"),
                    *("--ctrl", f"type=unixio,clientfd={theirs.fileno()}"),
                    # With QEMU's end of the channel, the TPM ends.
                    *("--terminate", "--flags", "startup-clear"),
                ],
                [theirs.fileno()],
            )
        except BaseException:
            ours.close()
            raise
    return child, ours
