"""Measures what the processor offers to virtual machines; `python -m` this prints one line of JSON.

/dev/kvm may open and yet run guests by interpretation, a thousand times too slowly, or hang: so a guest is run, and in
a process of its own, which can be killed. Imports nothing of ours: it starts for every look.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import mmap
import os
import platform
import struct
import sys
import time
from typing import Any

_STEPS = 30_000

# linux/kvm.h
_GET_API_VERSION, _API_VERSION = 0xAE00, 12
_CREATE_VM, _CHECK_EXTENSION, _GET_VCPU_MMAP_SIZE = 0xAE01, 0xAE03, 0xAE04
_CREATE_VCPU, _RUN = 0xAE41, 0xAE80
_SET_USER_MEMORY_REGION, _SET_REGS, _GET_SREGS, _SET_SREGS = 0x4020AE46, 0x4090AE82, 0x8138AE83, 0x4138AE84
_CAP_VM_TYPES = 235
_EXIT_HLT = 5
_SREGS_SIZE = 312

_PAGE = 4096
_CODE_AT = 0x1000
_COUNT_DOWN = bytes([0x66, 0xFF, 0xC9, 0x75, 0xFB, 0xF4])
"""`dec ecx; jnz -5; hlt`, in real mode."""

# push rbx; mov eax, edi; xor ecx, ecx; cpuid; mov [rsi], eax; mov [rsi+4], ebx; pop rbx; ret
_CPUID = bytes.fromhex("53 89f8 31c9 0fa2 8906 895e04 5b c3")
_ENCRYPTED_MEMORY_LEAF = 0x8000001F


def main() -> int:
    """Print what was found; whatever stands in the way of a measurement is its result."""
    print(json.dumps({"kvm": _kvm(), "encryption": _encryption()}))
    return 0


def _kvm() -> dict[str, Any]:
    try:
        device = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return {"error": f"/dev/kvm: {error.strerror}"}
    try:
        if fcntl.ioctl(device, _GET_API_VERSION, 0) != _API_VERSION:
            return {"error": "/dev/kvm speaks another version of its interface"}
        types = fcntl.ioctl(device, _CHECK_EXTENSION, _CAP_VM_TYPES)
        return {"vm_types": types, **_run_guest(device)}
    except OSError as error:
        return {"error": f"/dev/kvm runs no guest: {error.strerror}"}
    finally:
        os.close(device)


def _run_guest(device: int) -> dict[str, Any]:
    machine = fcntl.ioctl(device, _CREATE_VM, 0)
    memory = mmap.mmap(-1, _PAGE)
    memory[: len(_COUNT_DOWN)] = _COUNT_DOWN
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    fcntl.ioctl(machine, _SET_USER_MEMORY_REGION, struct.pack("IIQQQ", 0, 0, _CODE_AT, _PAGE, address))
    processor = fcntl.ioctl(machine, _CREATE_VCPU, 0)
    state = mmap.mmap(processor, fcntl.ioctl(device, _GET_VCPU_MMAP_SIZE, 0))
    special = bytearray(_SREGS_SIZE)
    fcntl.ioctl(processor, _GET_SREGS, special)
    struct.pack_into("QIH", special, 0, 0, 0xFFFF, 0)  # the code segment begins at 0
    fcntl.ioctl(processor, _SET_SREGS, bytes(special))
    registers = [0] * 18
    registers[2], registers[16], registers[17] = _STEPS, _CODE_AT, 2  # rcx, rip, rflags
    fcntl.ioctl(processor, _SET_REGS, struct.pack("18Q", *registers))
    started = time.perf_counter()
    fcntl.ioctl(processor, _RUN, 0)
    seconds = time.perf_counter() - started
    reason = struct.unpack_from("I", state, 8)[0]
    if reason != _EXIT_HLT:
        return {"error": f"a guest that halts left with reason {reason}"}
    return {"steps_per_second": int(2 * _STEPS / seconds)}


def _encryption() -> dict[str, Any]:
    """CPUID 0x8000001f: AMD64 Architecture Programmer's Manual, volume 3, E.4.17."""
    if platform.machine() != "x86_64":
        return {}
    code = mmap.mmap(-1, _PAGE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(_CPUID)
    call = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_void_p)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    result = (ctypes.c_uint32 * 2)()
    call(0x80000000, ctypes.addressof(result))
    if result[0] < _ENCRYPTED_MEMORY_LEAF:
        return {"snp": False}
    call(_ENCRYPTED_MEMORY_LEAF, ctypes.addressof(result))
    features, layout = result
    return {"snp": bool(features & 1 << 4), "encryption_bit": layout & 0x3F, "lost_address_bits": layout >> 6 & 0x3F}


if __name__ == "__main__":
    sys.exit(main())
