"""A real software TPM (swtpm) for one test, in a short temporary folder."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_SECONDS_TO_START = 20.0


@contextmanager
def running_swtpm(*, ek_certificate: bool = False, state: Path | None = None) -> Iterator[Path]:
    """The UNIX socket of a fresh TPM, started up; it takes one connection at a time and has no resource manager.

    `ek_certificate` lets swtpm_setup make one under a CA of its own (1.6 s); `state` is a folder in which the TPM's
    seeds and counters outlive it. Skips the test where swtpm is not installed.
    """
    tools = ["swtpm", "swtpm_setup", "swtpm_localca"] if ek_certificate else ["swtpm"]
    if missing := [tool for tool in tools if shutil.which(tool) is None]:
        pytest.skip(f"{', '.join(missing)} not installed: apt-get install swtpm swtpm-tools")
    # Not pytest's tmp_path: a UNIX socket's path must stay below 108 bytes.
    with tempfile.TemporaryDirectory(prefix="tpm-") as name:
        folder = Path(name)
        state = state or folder / "state"
        state.mkdir(exist_ok=True)
        if ek_certificate:
            _manufacture(folder, state)
        path = folder / "tpm.sock"
        process = subprocess.Popen(
            [
                "swtpm",
                "socket",
                "--tpm2",
                *("--tpmstate", f"dir={state}"),
                *("--server", f"type=unixio,path={path}"),
                *("--flags", "not-need-init,startup-clear"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            _await_socket(path, process)
            yield path
        finally:
            process.kill()
            process.communicate()


def _manufacture(folder: Path, state: Path) -> None:
    authority = folder / "ca"
    authority.mkdir()
    (folder / "localca.conf").write_text(
        f"statedir = {authority}\n"
        f"signingkey = {authority}/signkey.pem\n"
        f"issuercert = {authority}/issuercert.pem\n"
        f"certserial = {authority}/certserial\n"
    )
    (folder / "localca.options").write_text(
        "--platform-manufacturer wasmkeep\n--platform-version 1\n--platform-model test\n"
    )
    (folder / "setup.conf").write_text(
        f"create_certs_tool = {shutil.which('swtpm_localca')}\n"
        f"create_certs_tool_config = {folder}/localca.conf\n"
        f"create_certs_tool_options = {folder}/localca.options\n"
    )
    subprocess.run(
        [
            "swtpm_setup",
            "--tpm2",
            *("--tpmstate", str(state)),
            *("--config", str(folder / "setup.conf")),
            "--create-ek-cert",
            *("--pcr-banks", "sha256"),
            "--overwrite",
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )


def _await_socket(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _SECONDS_TO_START
    while not _listens(path):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"swtpm did not start: {process.communicate()[1].decode(errors='replace')}")
        time.sleep(0.01)


def _listens(path: Path) -> bool:
    # The file is there a moment before anybody listens.
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
