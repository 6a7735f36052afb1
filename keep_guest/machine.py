"""Makes the bare machine usable: file systems, kernel modules, a group for the keep's processes."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from keep_guest.errors import GuestError, SystemCallError
from keep_guest.system import MS_NOATIME, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_REMOUNT, load_module, mount

STATE: Final = Path("/var/lib/keep")
"""The keep's only folder to write; in memory, where the machine has no disk for it."""
HOST_FILES: Final = Path("/run/host")
"""What the host tells while the keep runs: its revocation lists."""
MODULES: Final = Path("/usr/lib/modules")

_MODULE_LISTS: Final = MODULES / "groups.json"
_DISK: Final = Path("/dev/vda")
_VIRTIO: Final = Path("/sys/bus/virtio")
_DISK_SECONDS: Final = 5.0
_PAUSE: Final = 0.01
_GROUPS: Final = Path("/sys/fs/cgroup")
_KEEP_GROUP: Final = _GROUPS / "keep"
_BOOT_LOG: Final = Path("/sys/kernel/security/tpm0/binary_bios_measurements")

_REPORTED_ORDER: Final = Path("/sys/module/page_reporting/parameters/page_reporting_order")
_SMALLEST_REPORTED: Final = 5
"""Free memory is told to the host in blocks of 2^5 pages and more, 128 KiB. By default only of 2 or 4 MiB, of which a
machine as small as a keep's has few that are free."""

_MOUNTS: Final = (
    ("proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""),
    ("sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""),
    ("devtmpfs", "/dev", MS_NOSUID | MS_NOEXEC, "mode=0755"),
    ("tmpfs", "/run", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0755"),
    ("tmpfs", "/tmp", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=1777,size=16m"),
    # Not MS_NOEXEC: compiled modules are mapped from there to be executed.
    ("tmpfs", str(STATE), MS_NOSUID | MS_NODEV, "mode=0700,size=75%"),
    ("securityfs", "/sys/kernel/security", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""),
    ("cgroup2", str(_GROUPS), MS_NOSUID | MS_NODEV | MS_NOEXEC, ""),
)


def mount_file_systems() -> None:
    """What every keep needs; afterwards nothing of the image can be written. Raises `SystemCallError`."""
    for kind, target, flags, options in _MOUNTS:
        mount(kind, target, flags, options)
    # A folder of devtmpfs, so it cannot be in the image.
    memory = Path("/dev/wasmkeep")
    memory.mkdir(mode=0o755)
    mount("tmpfs", str(memory), MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=1777")
    HOST_FILES.mkdir(mode=0o755)
    mount("rootfs", "/", MS_REMOUNT | MS_RDONLY)


def load_modules(group: str) -> bool:
    """Load a group of the image's modules, in order; whether all found their hardware.

    A kernel that has all of it built in comes without modules. Raises `SystemCallError`.
    """
    if not _MODULE_LISTS.is_file():
        return True
    names: list[str] = json.loads(_MODULE_LISTS.read_text()).get(group, [])
    found = [load_module(MODULES / name) for name in names]
    return all(found)


def give_memory_back() -> None:
    """From now on the kernel tells the host what memory is free, where the machine has a balloon for that.

    What the initramfs was unpacked from alone is 20 MB.
    """
    try:
        _REPORTED_ORDER.write_text(str(_SMALLEST_REPORTED))
        load_modules("balloon")
    except (OSError, SystemCallError) as error:
        # The host has less memory then, and the keep all that it was promised.
        print(f"init: no memory is given back to the host: {error}", file=sys.stderr, flush=True)


def release_disk() -> None:
    """Let the driver of disks go, and its disk with it: a clone has another one, of another size. Raises `OSError`."""
    load_modules("disk")
    driver = _VIRTIO / "drivers" / "virtio_blk"
    for device in driver.glob("virtio*"):
        (driver / "unbind").write_text(device.name)


def _bind_disk() -> None:
    """Undo `release_disk`: drivers look at every device that has none."""
    for device in (_VIRTIO / "devices").iterdir():
        if not (device / "driver").exists():
            (_VIRTIO / "drivers_probe").write_text(device.name)


def mount_disk(device: Path = _DISK, *, released: bool) -> None:
    """The keep's state is on the disk from now on. `released`: by `release_disk`. Raises `GuestError` or `OSError`."""
    if released:
        _bind_disk()
    else:
        load_modules("disk")
    deadline = time.monotonic() + _DISK_SECONDS
    while not device.exists():
        if time.monotonic() > deadline:
            raise GuestError("the machine has no disk, or its kernel no driver for it (VIRTIO_BLK)")
        time.sleep(_PAUSE)
    # Not MS_NOEXEC, as above. What the host's disk refuses is refused here too, until the machine starts anew.
    flags = MS_NOSUID | MS_NODEV | MS_NOATIME
    mount("ext4", str(STATE), flags, "errors=remount-ro,discard", source=str(device))
    # mke2fs makes it, and whoever lists the keep's state would stumble over it.
    with suppress(OSError):
        (STATE / "lost+found").rmdir()


def mount_reports() -> None:
    """configfs, in which hardware's reports are made. Raises `SystemCallError`."""
    mount("configfs", "/sys/kernel/config", MS_NOSUID | MS_NODEV | MS_NOEXEC)


def let_read_boot_log() -> None:
    """The event log of the measured boot is evidence, and no secret; the kernel lets only root read it."""
    if _BOOT_LOG.exists():
        os.chmod(_BOOT_LOG, 0o444)


def make_group() -> None:
    """Make a control group for the keep, in which is counted what the kernel kills for want of memory.

    Raises `SystemCallError`.
    """
    try:
        (_GROUPS / "cgroup.subtree_control").write_text("+memory +pids")
        _KEEP_GROUP.mkdir()
    except OSError as error:
        raise SystemCallError(f"no control group can be made: {error}") from None


def bounded_group(tasks: int) -> Path:
    """The keep's group, with so many processes at most; made unless it is there. Raises `SystemCallError`."""
    if not _KEEP_GROUP.exists():
        make_group()
    try:
        (_KEEP_GROUP / "pids.max").write_text(str(tasks))
    except OSError as error:
        raise SystemCallError(f"the number of processes cannot be bounded: {error}") from None
    return _KEEP_GROUP
