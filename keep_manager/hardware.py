"""What this machine has for making evidence, and SGX; what virtual machines need is in `machines`."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from keep_protocol.evidence import EvidenceKind
from keep_protocol.manager_api import AttesterInfo, BackendInfo, Check
from keep_protocol.states import Backend

DEFAULT_TPM: Final = Path("/dev/tpmrm0")

_SGX_DEVICE: Final = Path("/dev/sgx_enclave")


def sgx_backend(root: Path = Path("/")) -> BackendInfo:
    """Enclaves of SGX, which nothing starts yet. `root` is the root of the file system."""
    present = _below(root, _SGX_DEVICE).exists()
    hardware = Check(
        "hardware",
        present,
        f"{_SGX_DEVICE} is there" if present else "",
        ""
        if present
        else f"this machine offers no SGX ({_SGX_DEVICE}): it takes an Intel processor with SGX and flexible launch "
        "control enabled",
    )
    launcher = Check("launcher", False, "", f"this version starts no {Backend.SGX} keeps: choose another backend")
    return BackendInfo(Backend.SGX, False, (hardware, launcher))


def attesters(tpm: Path | None = None, root: Path = Path("/")) -> tuple[AttesterInfo, ...]:
    """What could make evidence for process keeps here. `tpm` is the configured device or socket."""
    simulated = Check("simulated", True, "signs with a published key: for tests, proves nothing about hardware")
    found = _tpm(tpm or _below(root, DEFAULT_TPM))
    return (
        AttesterInfo(EvidenceKind.SIMULATED, True, (simulated,)),
        AttesterInfo(EvidenceKind.TPM, found.passed, (found,)),
    )


def _tpm(path: Path) -> Check:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return Check("tpm", False, "", f"{path} does not exist: this machine has no TPM 2.0, or name its path in `tpm`")
    except OSError as error:
        return Check("tpm", False, "", f"{path}: {error.strerror}")
    if not stat.S_ISCHR(mode) and not stat.S_ISSOCK(mode):
        return Check("tpm", False, "", f"{path} is neither a device nor a socket")
    if not os.access(path, os.R_OK | os.W_OK):
        return Check("tpm", False, "", f"{path} may not be used by this user: add it to the group of the device")
    return Check("tpm", True, f"{path} can be opened")


def _below(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")
