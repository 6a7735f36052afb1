"""Writes `keep.json`, the facts that a keep publishes about itself."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from keep_protocol.handover import PROTOCOL_VERSION, KeepFile, SandboxFact
from keep_protocol.machine import MachineStart


def write_keep_file(
    folder: Path,
    *,
    certificate: str,
    invocation: str,
    sandbox: tuple[SandboxFact, ...],
    start: MachineStart | None = None,
) -> None:
    """Replace `keep.json` in `folder` at once, so that no reader sees half of it."""
    content = msgspec.json.encode(
        KeepFile(version=PROTOCOL_VERSION, certificate=certificate, invocation=invocation, sandbox=sandbox, start=start)
    )
    temporary = folder / "keep.json.new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        # The unit's UMask would hide the file from a manager that runs under another uid.
        os.fchmod(descriptor, 0o644)
        os.write(descriptor, content)
    finally:
        os.close(descriptor)
    temporary.rename(folder / "keep.json")
