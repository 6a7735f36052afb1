"""The table `[machines]` of `wasmkeep.toml`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from keep_manager.errors import ConfigurationError
from keep_manager.sizes import parse_size
from keep_protocol.spec import MiB

_PATHS: Final = {
    "qemu": "/usr/bin/qemu-system-x86_64",
    "swtpm": "/usr/bin/swtpm",
    "mke2fs": "/usr/sbin/mke2fs",
    "vhost_device_vsock": "/usr/bin/vhost-device-vsock",
    "firmware": "/usr/share/ovmf/OVMF.fd",
    "snp_firmware": "/usr/share/ovmf/OVMF.amdsev.fd",
    "tdx_firmware": "/usr/share/ovmf/OVMF.fd",
    "quote_socket": "/var/run/tdx-qgs/qgs.socket",
}
_HIDDEN: Final = tuple(map(Path, ("/home", "/root", "/tmp", "/var/tmp", "/run/user")))
"""What a keep's unit does not see, so that a program there could not be started."""

DEFAULT_OVERHEAD: Final = 320 * MiB
KEYS: Final = frozenset({*_PATHS, "image", "overhead"})


@dataclass(frozen=True, slots=True)
class MachineSettings:
    """Where programs and files for virtual machines are. Firmware and image are read by the manager alone."""

    image: Path | None = None
    """Folder of the guest image; None: where `keep-manager image build` puts it."""
    qemu: Path = Path(_PATHS["qemu"])
    swtpm: Path = Path(_PATHS["swtpm"])
    mke2fs: Path = Path(_PATHS["mke2fs"])
    vhost_device_vsock: Path = Path(_PATHS["vhost_device_vsock"])
    """Makes vsock devices where the host's kernel makes none. Machines do without, if it is not there."""
    firmware: Path = Path(_PATHS["firmware"])
    """For machines whose start a TPM measures."""
    snp_firmware: Path = Path(_PATHS["snp_firmware"])
    tdx_firmware: Path = Path(_PATHS["tdx_firmware"])
    quote_socket: Path = Path(_PATHS["quote_socket"])
    overhead: int = DEFAULT_OVERHEAD
    """Bytes that a unit may use beyond the memory of its machine: for QEMU, the TPM and the keep-loader."""


def parse_machines(table: dict[str, Any]) -> MachineSettings:
    """The table, checked. Raises `ConfigurationError`."""
    paths = {name: _path(table, name, default) for name, default in _PATHS.items()}
    for name in ("qemu", "swtpm", "mke2fs", "vhost_device_vsock"):
        if any(paths[name].is_relative_to(folder) for folder in _HIDDEN):
            raise ConfigurationError(
                f"`machines.{name}` is {paths[name]}, which keeps do not see: install it below /usr or /opt"
            )
    image = _path(table, "image", "") if "image" in table else None
    return MachineSettings(image=image, overhead=parse_size(table.get("overhead", DEFAULT_OVERHEAD)), **paths)


def _path(table: dict[str, Any], key: str, default: str) -> Path:
    value = table.get(key, default)
    if not isinstance(value, str) or not value.startswith("/"):
        raise ConfigurationError(f"`machines.{key}` is {value!r}, not an absolute path")
    return Path(value)
