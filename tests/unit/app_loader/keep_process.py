"""A whole keep as a process of its own: `python -m tests.unit.app_loader.keep_process FOLDER DESCRIPTOR`."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import msgspec

from app_loader.main import run
from keep_protocol.handover import BROKER_SOCKET, Configuration

CONFIGURATION = "configuration.json"
CERTIFICATE = "keep.pem"
STATE = "state"
HOST = "host"


def main() -> int:
    folder = Path(sys.argv[1])
    beats = 0

    def publish(certificate: str) -> None:
        (folder / "new.pem").write_text(certificate)
        (folder / "new.pem").rename(folder / CERTIFICATE)

    def beat() -> None:
        nonlocal beats
        beats += 1
        (folder / "beats").write_text(str(beats))

    return run(
        configuration=msgspec.json.decode((folder / CONFIGURATION).read_bytes(), type=Configuration),
        devices={},
        listener=socket.socket(fileno=int(sys.argv[2])),
        state=folder / STATE,
        host=folder / HOST,
        broker=folder / BROKER_SOCKET,
        invocation="f" * 32,
        publish=publish,
        heartbeat=beat,
        heartbeat_interval=0.05,
    )


if __name__ == "__main__":
    os.environ.clear()
    sys.exit(main())
