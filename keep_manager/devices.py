"""Opens what a keep may use and cannot reach from its sandbox: the TPM, for keeps that attest by it."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from keep_manager.errors import DeviceError
from keep_manager.hardware import DEFAULT_TPM
from keep_protocol.evidence import EvidenceKind
from keep_protocol.handover import TPM_FD

_CONNECT_DEADLINE = 5.0


def open_devices(evidence: EvidenceKind | None, tpm: Path | None) -> dict[str, int]:
    """Descriptors by their names in the hand-over, for the caller to close. Raises `DeviceError`."""
    return {TPM_FD: _open_tpm(tpm or DEFAULT_TPM)} if evidence is EvidenceKind.TPM else {}


def _open_tpm(path: Path) -> int:
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            return os.open(path, os.O_RDWR | os.O_CLOEXEC)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
            connection.settimeout(_CONNECT_DEADLINE)
            connection.connect(os.fspath(path))
            connection.setblocking(True)
            return connection.detach()
    except OSError as error:
        raise DeviceError(f"the TPM {path} cannot be opened: {error.strerror or error}") from None
