"""QEMU's command line for a machine, one function a mode. Nothing here looks at the host.

Tried: `qemu` and `qemu+vtpm`. The lines of SNP, TDX and Nitro follow QEMU's documentation (system/i386/amd-memory-
encryption, system/i386/tdx, system/i386/nitro) and have never started a machine of ours on such hardware.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from typing import Final

from keep_loader.errors import MachineError
from keep_loader.machine.shape import MachineShape, MemoryFile, SerialChannel, VhostUserVsockChannel, VsockChannel
from keep_protocol.channel import DATA_PORT
from keep_protocol.guest_control import CONTROL_PORT
from keep_protocol.machine import Accelerator
from keep_protocol.states import Backend

_TRANSLATION_CACHE: Final = 48
"""MiB for translated code. By default QEMU lets it grow to half the guest's memory or more. With 40 and less it is full
so often that compiling a workload takes a fifth more of a processor."""

_ENTROPY: Final = 64 * 1024
"""Bytes of randomness that a guest gets in a period. Its kernel takes some dozens at its start and each minute, and
makes all that programs ask for from them."""
_ENTROPY_PERIOD: Final = 1000
"""Milliseconds."""

TRANSLATED_PROCESSOR: Final = "max,-erms,-fsrm"
"""Any model but `max` lacks instructions that Python and wasmtime like, RDRAND first. Guests that hear that REP MOVSB
is fast copy all memory by it, which the translator does byte by byte: 6 times slower than by words."""

_CLONES_TRANSLATION_CACHE: Final = 24
"""As `_TRANSLATION_CACHE`, for clones, of which it is the largest part that they do not share: with 64, an idle one was
measured to have 103 MB for itself, with this 79 to 80. The price is that code is translated again; a start translates
about 50 MB."""

_SNP_POLICY: Final = 0x30000
"""Bit 17 must be one, bit 16 allows simultaneous multithreading; bit 19, debugging, is off."""

_MRCONFIGID_SIZE: Final = 48

_SANDBOX: Final = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


def arguments(shape: MachineShape) -> list[str]:
    """The command, program first. Raises `MachineError` where the shape lacks what its mode needs."""
    try:
        mode = _MODES[shape.backend]
    except KeyError:
        raise MachineError(f"there is no machine of the kind {shape.backend}") from None
    if shape.memory_file is not None and shape.backend is not Backend.QEMU:
        raise MachineError(f"a {shape.backend} machine is never cloned: it proves how it was started")
    return [shape.qemu, *mode(shape)]


def spec_config_id(spec_sha256: bytes) -> bytes:
    """The digest of a spec as MRCONFIGID of a TDX guest: filled up with zeros to its 48 bytes."""
    return spec_sha256.ljust(_MRCONFIGID_SIZE, b"\0")


def _plain(shape: MachineShape) -> list[str]:
    file = shape.memory_file
    # The program beside QEMU reads and writes the guest's memory.
    shared = isinstance(shape.channel, VhostUserVsockChannel)
    return [
        *_common(shape),
        *("-machine", "q35,smm=off,vmport=off" + (",memory-backend=ram" if shared or file else "")),
        *_processor(shape),
        *(_shared_memory(shape) if shared else ("-m", f"{shape.memory}M")),
        *_boot(shape),
        *_ports(shape),
        *_disk(shape),
        *_devices(shape),
        *(_balloon() if file is None else _cloning(shape, file)),
    ]


def _vtpm(shape: MachineShape) -> list[str]:
    if shape.tpm is None:
        raise MachineError("a machine with a TPM needs the control channel of one")
    tpm = ("-chardev", f"socket,id=tpm,fd={shape.tpm}", "-tpmdev", "emulator,id=tpm0,chardev=tpm")
    return [*_plain(shape), *_firmware(shape), *tpm, "-device", "tpm-crb,tpmdev=tpm0"]


def _snp(shape: MachineShape) -> list[str]:
    _needs_kvm(shape)
    encrypted = shape.encrypted_memory
    if encrypted is None:
        raise MachineError("an SNP machine needs to know how this processor encrypts memory")
    guest = (
        f"sev-snp-guest,id=tee,cbitpos={encrypted.encryption_bit},reduced-phys-bits={encrypted.lost_address_bits},"
        f"kernel-hashes=on,policy={_SNP_POLICY:#x},host-data={b64encode(shape.spec_sha256).decode()}"
    )
    return [
        *_common(shape),
        *("-machine", "q35,confidential-guest-support=tee,memory-backend=ram,smm=off,vmport=off"),
        *("-object", guest),
        # The launch digest covers the signature of the processor's model, so it is named and not the host's.
        *("-accel", "kvm", "-cpu", "EPYC-v4", "-smp", str(shape.processors)),
        *_shared_memory(shape),
        *_boot(shape),
        *_firmware(shape),
        *_ports(shape),
        *_devices(shape),
    ]


def _tdx(shape: MachineShape) -> list[str]:
    _needs_kvm(shape)
    guest: dict[str, object] = {
        "qom-type": "tdx-guest",
        "id": "tee",
        "mrconfigid": b64encode(spec_config_id(shape.spec_sha256)).decode(),
    }
    if shape.quote_socket:
        guest["quote-generation-socket"] = {"type": "unix", "path": shape.quote_socket}
    return [
        *_common(shape),
        *("-machine", "q35,kernel-irqchip=split,confidential-guest-support=tee,memory-backend=ram,smm=off,hpet=off"),
        *("-object", json.dumps(guest, separators=(",", ":"))),
        *("-accel", "kvm", "-cpu", "host", "-smp", str(shape.processors)),
        *_shared_memory(shape),
        *_boot(shape),
        *_firmware(shape),
        *_ports(shape),
        *_devices(shape),
    ]


def _nitro(shape: MachineShape) -> list[str]:
    """An enclave has no ports, no serial line and no host data: vsock and its kernel's command line are all."""
    if not isinstance(shape.channel, VsockChannel):
        raise MachineError("a Nitro enclave is reached by vsock alone")
    return [
        *("-name", "keep", "-nodefaults", "-no-user-config", "-nographic"),
        *("-monitor", "none", "-serial", "none"),
        *("-chardev", f"socket,id=monitor,fd={shape.monitor}", "-mon", "chardev=monitor,mode=control"),
        *("-machine", "nitro", "-accel", "nitro", "-smp", str(shape.processors), "-m", f"{shape.memory}M"),
        *_boot(shape),
    ]


_MODES: Final[dict[Backend, Callable[[MachineShape], list[str]]]] = {
    Backend.QEMU: _plain,
    Backend.QEMU_VTPM: _vtpm,
    Backend.SNP: _snp,
    Backend.TDX: _tdx,
    Backend.NITRO: _nitro,
}


def _common(shape: MachineShape) -> list[str]:
    return [
        *("-name", "keep", "-nodefaults", "-no-user-config", "-display", "none", "-sandbox", _SANDBOX),
        # A guest whose kernel panics restarts: then QEMU ends, and says of which of the two ends it was.
        "-no-reboot",
        *("-chardev", f"socket,id=monitor,fd={shape.monitor}", "-mon", "chardev=monitor,mode=control"),
        *("-chardev", f"socket,id=console,fd={shape.console}", "-serial", "chardev:console"),
    ]


def _processor(shape: MachineShape) -> list[str]:
    if shape.accelerator is Accelerator.KVM:
        accelerator = ("-accel", "kvm", "-cpu", "host")
    else:
        cache = _CLONES_TRANSLATION_CACHE if _is_clone(shape) else _TRANSLATION_CACHE
        accelerator = ("-accel", f"tcg,thread=multi,tb-size={cache}", "-cpu", TRANSLATED_PROCESSOR)
    return [*accelerator, "-smp", str(shape.processors)]


def _boot(shape: MachineShape) -> list[str]:
    if _is_clone(shape):
        # It has been booted. QEMU would read the kernel for nothing, and hold it in memory.
        return []
    return ["-kernel", shape.kernel, "-initrd", shape.initramfs, "-append", shape.command_line]


def _firmware(shape: MachineShape) -> list[str]:
    if shape.firmware is None:
        raise MachineError(f"a {shape.backend} machine needs firmware that measures what it starts")
    # Not as flash memory: then a variable store, which nobody measures, would come with it.
    return ["-bios", shape.firmware]


def _shared_memory(shape: MachineShape) -> list[str]:
    size = f"{shape.memory}M"
    return ["-m", size, "-object", f"memory-backend-memfd,id=ram,size={size},share=on,prealloc=off"]


def _cloning(shape: MachineShape, file: MemoryFile) -> list[str]:
    """What a template and its clones have: memory in a file, and a device that tells the kernel that it was cloned."""
    share = "on" if file.shared else "off"
    memory = f"memory-backend-file,id=ram,size={shape.memory}M,mem-path={file.path},share={share}"
    return [
        *("-object", memory, "-device", "vmgenid,guid=auto"),
        # It waits until its monitor says where the template's state is.
        *(() if file.shared else ("-incoming", "defer")),
    ]


def _ports(shape: MachineShape) -> list[str]:
    ports = [
        *("-device", "virtio-serial-pci,id=ports"),
        *("-chardev", f"socket,id=control,fd={shape.control}"),
        *("-device", f"virtserialport,bus=ports.0,chardev=control,name={CONTROL_PORT}"),
    ]
    match shape.channel:
        case SerialChannel(descriptor):
            ports += ["-chardev", f"socket,id=data,fd={descriptor}"]
            ports += ["-device", f"virtserialport,bus=ports.0,chardev=data,name={DATA_PORT}"]
        case VsockChannel(context):
            ports += ["-device", f"vhost-vsock-pci,guest-cid={context}"]
        case VhostUserVsockChannel(descriptor):
            ports += ["-chardev", f"socket,id=vsock,fd={descriptor}", "-device", "vhost-user-vsock-pci,chardev=vsock"]
    return ports


def _devices(shape: MachineShape) -> list[str]:
    # QEMU's own generator reads the host's once and is not a file: nothing more for the sandbox to allow. A guest
    # that asks without end waits, instead of having the host make random numbers all the time.
    device = f"virtio-rng-pci,rng=entropy,max-bytes={_ENTROPY},period={_ENTROPY_PERIOD}"
    return ["-object", "rng-builtin,id=entropy", "-device", device, "-device", "pvpanic"]


def _balloon() -> list[str]:
    """Memory that the guest has freed is the host's again.

    Not for encrypted memory, which cannot be given back. Nor for a private copy of a file's: QEMU would punch the holes
    into the file, under all other copies.
    """
    return ["-device", "virtio-balloon-pci,free-page-reporting=on"]


def _disk(shape: MachineShape) -> list[str]:
    if shape.disk is None:
        return []
    image = {"driver": "raw", "node-name": "disk", "discard": "unmap"}
    file = {"driver": "file", "filename": shape.disk, "discard": "unmap"}
    return [
        *("-blockdev", json.dumps({**image, "file": file}, separators=(",", ":"))),
        # By default QEMU stops a machine whose host's disk is full, and its keep would seem to hang.
        *("-device", "virtio-blk-pci,drive=disk,werror=report,rerror=report"),
    ]


def _is_clone(shape: MachineShape) -> bool:
    return shape.memory_file is not None and not shape.memory_file.shared


def _needs_kvm(shape: MachineShape) -> None:
    if shape.accelerator is not Accelerator.KVM:
        raise MachineError(f"a {shape.backend} machine runs on KVM alone, not on {shape.accelerator}")
