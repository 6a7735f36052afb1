"""Opens what a keep may use and cannot reach from its sandbox: the TPM, for keeps that attest by it."""

from __future__ import annotations

import logging
import os
import socket
import stat
from pathlib import Path

from keep_manager.errors import DeviceError
from keep_manager.hardware import DEFAULT_TPM
from keep_protocol.evidence import EvidenceKind
from keep_protocol.handover import TPM_FD
from keep_protocol.tpm_handles import counter_index

_CONNECT_DEADLINE = 5.0

_logger = logging.getLogger(__name__)


def open_devices(evidence: EvidenceKind | None, tpm: Path | None) -> dict[str, int]:
    """Descriptors by their names in the hand-over, for the caller to close. Raises `DeviceError`."""
    return {TPM_FD: _open_tpm(tpm or DEFAULT_TPM)} if evidence is EvidenceKind.TPM else {}


def free_counter(keep: str, tpm: Path | None) -> None:
    """Take the counter of a removed keep out of the TPM's memory, where it has one; a TPM has room for few.

    It cannot be done with a TPM that is gone or whose owner has a password: then it is logged, and nothing is held up.
    """
    # Only removing such keeps needs it.
    from app_loader.attesters.tpm_commands import Tpm
    from app_loader.attesters.tpm_transport import DeviceTransport, SocketTransport
    from app_loader.attesters.tpm_wire import ResponseCode, TpmError

    index = counter_index(keep)
    path = os.fspath(tpm or DEFAULT_TPM)
    try:
        # A software TPM serves one at a time, and that may be another keep.
        is_socket = Path(path).is_socket()
        transport = SocketTransport(path, timeout_seconds=_CONNECT_DEADLINE) if is_socket else DeviceTransport(path)
        with Tpm(transport) as opened:
            opened.remove_nv(index)
    except (TpmError, OSError) as error:
        # A keep that never sealed by it has none.
        if not (isinstance(error, TpmError) and error.code & ~0xF00 == ResponseCode.HANDLE):
            _logger.warning("keep %s: its counter at NV index %#010x stays in the TPM: %s", keep, index, error)


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
