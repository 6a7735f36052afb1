"""What this machine has for isolating keeps by hardware or for making evidence, and what is missing where not."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from keep_protocol.evidence import EvidenceKind
from keep_protocol.manager_api import AttesterInfo, BackendInfo, Check
from keep_protocol.states import Backend

DEFAULT_TPM: Final = Path("/dev/tpmrm0")

_TECHNOLOGIES: Final = {
    Backend.SNP: ("/sys/module/kvm_amd/parameters/sev_snp", "AMD EPYC Milan or later with SNP enabled in firmware"),
    Backend.TDX: ("/sys/module/kvm_intel/parameters/tdx", "Intel Xeon of the 5th generation or later with TDX enabled"),
    Backend.SGX: ("/dev/sgx_enclave", "an Intel processor with SGX and flexible launch control enabled"),
    Backend.NITRO: ("/dev/nitro_enclaves", "an AWS instance of a Nitro type with enclaves enabled"),
}
_NAMES: Final = {Backend.SNP: "SEV-SNP", Backend.TDX: "TDX", Backend.SGX: "SGX", Backend.NITRO: "Nitro enclaves"}


def tee_backends(root: Path = Path("/")) -> tuple[BackendInfo, ...]:
    """The backends of trusted hardware, each with what is missing. `root` is the root of the file system."""
    return tuple(_tee_backend(backend, root) for backend in Backend if backend.is_tee)


def attesters(tpm: Path | None = None, root: Path = Path("/")) -> tuple[AttesterInfo, ...]:
    """What could make evidence for process keeps here. `tpm` is the configured device or socket."""
    simulated = Check("simulated", True, "signs with a published key: for tests, proves nothing about hardware")
    found = _tpm(tpm or _below(root, DEFAULT_TPM))
    return (
        AttesterInfo(EvidenceKind.SIMULATED, True, (simulated,)),
        AttesterInfo(EvidenceKind.TPM, found.passed, (found,)),
    )


def _tee_backend(backend: Backend, root: Path) -> BackendInfo:
    path, remedy = _TECHNOLOGIES[backend]
    place = _below(root, Path(path))
    present = _is_enabled(place)
    hardware = Check(
        "hardware",
        present,
        f"{path} is there" if present else "",
        "" if present else f"this machine offers no {_NAMES[backend]} ({path}): it takes {remedy}",
    )
    launcher = Check("launcher", False, "", f"this version starts no {backend} keeps: choose the backend `process`")
    return BackendInfo(backend, False, (hardware, launcher))


def _is_enabled(path: Path) -> bool:
    """A device, or a parameter of a module that says yes."""
    try:
        mode = path.stat().st_mode
        return not stat.S_ISREG(mode) or path.read_text().strip() in {"Y", "1"}
    except OSError:
        return False


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
