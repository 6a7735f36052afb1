"""PCRs, RTMRs, MRTD and enclave PCRs from files: fixed vectors, and what each depends on."""

from __future__ import annotations

import hashlib
import struct

import pytest

from keep_image.errors import MeasurementError
from keep_image.measurement import nitro, tdx, tpm
from keep_image.measurement.authenticode import authenticode
from keep_image.measurement.direct_boot import DirectBoot, extended, patched_kernel
from tests.unit.keep_image.firmware_of import SIZE, TDX_SECTIONS, firmware

MiB = 1 << 20
SPEC_DIGEST = "ab" * 32


def kernel(*, certificates: bytes = b"", checksum: int = 0, protocol: int = 0x20F) -> bytes:
    """A bzImage that is an EFI program too: headers of 0x400 bytes, two sections, and certificates if any."""
    content = bytearray(0x400)
    struct.pack_into("<4sH", content, 0x202, b"HdrS", protocol)
    struct.pack_into("<I", content, 0x22C, 0x7FFFFFFF)
    struct.pack_into("<H", content, 0x236, 0x3F)
    start = 0x40
    struct.pack_into("<I", content, 0x3C, start)
    optional_size = 112 + 16 * 8
    struct.pack_into("<4sHHIIIHH", content, start, b"PE\0\0", 0x8664, 2, 0, 0, 0, optional_size, 0x206)
    optional = start + 24
    struct.pack_into("<H", content, optional, 0x20B)
    struct.pack_into("<II", content, optional + 60, 0x400, checksum)
    sections = [(0x200, 0x600), (0x200, 0x400)]
    if certificates:
        struct.pack_into("<II", content, optional + 112 + 4 * 8, 0x800, len(certificates))
    for number, (size, offset) in enumerate(sections):
        struct.pack_into("<II", content, optional + optional_size + 40 * number + 16, size, offset)
    return bytes(content) + b"A" * 0x200 + b"B" * 0x200 + certificates


def boot(**changed: object) -> DirectBoot:
    values: dict[str, object] = {
        "kernel": kernel(),
        "initrd": b"initrd",
        "command_line": "console=ttyS0",
        "memory": 512 * MiB,
        **changed,
    }
    return DirectBoot(**values)  # type: ignore[arg-type]


def test_authenticode_is_over_all_but_checksum_and_certificates() -> None:
    plain = authenticode(kernel())
    assert authenticode(kernel(checksum=77)) == plain
    signed = kernel(certificates=b"signature")
    assert authenticode(signed) == plain
    assert authenticode(kernel()[:-1] + b"X") != plain


def test_authenticode_of_a_known_file() -> None:
    # By hand: headers without checksum (0x98) and directory entry 4 (0xE8), then the sections in the order of the file.
    content = kernel()
    hashed = content[:0x98] + content[0x9C:0xE8] + content[0xF0:0x400] + b"A" * 0x200 + b"B" * 0x200
    assert authenticode(content) == hashlib.sha256(hashed).digest()
    assert authenticode(content, "sha384") == hashlib.sha384(hashed).digest()


@pytest.mark.parametrize("content", [b"", bytes(64), bytes(4096)])
def test_what_is_no_efi_program_is_refused(content: bytes) -> None:
    with pytest.raises(MeasurementError, match="no EFI program"):
        authenticode(content)


def test_a_register_is_extended_from_zero() -> None:
    once = hashlib.sha256(bytes(32) + b"a" * 32).digest()
    assert extended([b"a" * 32], "sha256") == once
    assert extended([b"a" * 32, b"b" * 32], "sha256") == hashlib.sha256(once + b"b" * 32).digest()


def test_qemu_before_10_fills_in_the_boot_loaders_fields() -> None:
    patched = patched_kernel(kernel(), 0x12345, 512 * MiB)
    assert patched[0x210] == 0xB0
    assert patched[0x211] & 0x80
    address, size = struct.unpack_from("<II", patched, 0x218)
    assert size == 0x12345
    # The highest page below what the ACPI tables take, where the initrd still fits.
    assert address == (512 * MiB - 0x28000 - 1 - 0x12345) & ~4095
    assert struct.unpack_from("<I", patched, 0x228) == (0x20000,)
    # More memory than fits below 4 GiB: q35 leaves 2 GiB there.
    address, _ = struct.unpack_from("<II", patched_kernel(kernel(), 0x12345, 8 << 30), 0x218)
    assert address == (0x80000000 - 0x28000 - 1 - 0x12345) & ~4095


def test_memory_that_is_too_small_and_kernels_that_are_too_old_are_refused() -> None:
    with pytest.raises(MeasurementError, match="do not hold an initramfs"):
        patched_kernel(kernel(), 64 * MiB, 32 * MiB)
    with pytest.raises(MeasurementError, match=r"boot protocol 2\.12"):
        patched_kernel(kernel(protocol=0x20B), 100, 512 * MiB)


def test_both_ways_to_hand_the_kernel_over_are_predicted_until_qemus_version_is_known() -> None:
    both = tpm.predict_pcrs(boot())
    new, old = (tpm.predict_pcrs(boot(qemu_version=version)) for version in ((10, 0), (9, 2)))
    assert both[4] == new[4] + old[4]
    assert len(set(both[4])) == 2
    assert both[9] == new[9] == old[9]


def test_pcr_4_is_the_kernel_and_pcr_9_command_line_and_initrd() -> None:
    usual = tpm.predict_pcrs(boot(qemu_version=(10, 0)))
    initrd = tpm.predict_pcrs(boot(qemu_version=(10, 0), initrd=b"other"))
    line = tpm.predict_pcrs(boot(qemu_version=(10, 0), command_line="console=ttyS0 init=/evil"))
    other = tpm.predict_pcrs(boot(qemu_version=(10, 0), kernel=kernel()[:-1] + b"X"))
    assert (initrd[4], line[4], other[9]) == (usual[4], usual[4], usual[9])
    assert not set(initrd[9]) & set(usual[9])
    assert not set(line[9]) & set(usual[9])
    assert not set(other[4]) & set(usual[4])


def test_pcr_9_of_a_known_boot() -> None:
    options = hashlib.sha256("console=ttyS0 initrd=initrd\0".encode("utf-16-le")).digest()
    expected = extended([options, hashlib.sha256(b"initrd").digest()], "sha256")
    assert tpm.predict_pcrs(boot())[9][0] == expected


def test_memory_counts_only_where_qemu_writes_it_into_the_kernel() -> None:
    small, large = boot(memory=256 * MiB, qemu_version=(7, 2)), boot(memory=512 * MiB, qemu_version=(7, 2))
    assert tpm.predict_pcrs(small)[4] != tpm.predict_pcrs(large)[4]
    small, large = boot(memory=256 * MiB, qemu_version=(10, 0)), boot(memory=512 * MiB, qemu_version=(10, 0))
    assert tpm.predict_pcrs(small) == tpm.predict_pcrs(large)


def test_the_specs_digest_is_alone_in_its_pcr() -> None:
    pcrs = tpm.predict_pcrs(boot(), SPEC_DIGEST)
    assert pcrs[11] == [hashlib.sha256(bytes(32) + bytes.fromhex(SPEC_DIGEST)).digest()]


def test_mrtd_is_the_chain_of_added_and_measured_pages() -> None:
    image = firmware()
    digest = hashlib.sha384()

    def record(name: bytes, address: int) -> None:
        digest.update(name.ljust(16, b"\0") + address.to_bytes(8, "little") + bytes(104))

    record(b"MEM.PAGE.ADD", 0xFFFFF000)
    for offset in range(0, 4096, 256):
        record(b"MR.EXTEND", 0xFFFFF000 + offset)
        digest.update(image[offset : offset + 256])
    for address in (0xFFFFE000, 0x810000, 0x811000):
        record(b"MEM.PAGE.ADD", address)
    assert tdx.predict_mrtd(image) == digest.digest()


def test_a_firmware_without_tdx_or_with_damaged_metadata_is_refused() -> None:
    with pytest.raises(MeasurementError, match="not metadata for TDX"):
        tdx.predict_mrtd(firmware(tdx=None))
    damaged = firmware(sev=None, tdx=TDX_SECTIONS).replace(b"TDVF", b"XXXX")
    assert len(damaged) == SIZE
    with pytest.raises(MeasurementError, match="metadata for TDX are damaged"):
        tdx.predict_mrtd(damaged)


def test_rtmrs_follow_kernel_and_initrd() -> None:
    usual = tdx.predict_rtmrs(boot(qemu_version=(10, 1)))
    assert [len(value) for values in usual.values() for value in values] == [48, 48, 48]
    initrd = tdx.predict_rtmrs(boot(qemu_version=(10, 1), initrd=b"other"))
    assert initrd[1] == usual[1]
    assert not set(initrd[2]) & set(usual[2])


def test_enclave_pcrs_cover_kernel_command_line_and_ramdisk() -> None:
    pcrs = nitro.predict_pcrs(b"kernel", b"initrd", "line")
    inner = hashlib.sha384(b"kernellineinitrd").digest()
    assert pcrs[0] == pcrs[1] == hashlib.sha384(bytes(48) + inner).digest()
    assert pcrs[2] == hashlib.sha384(bytes(48) + hashlib.sha384(b"").digest()).digest()
    assert set(pcrs) == {0, 1, 2}
    with_spec = nitro.predict_pcrs(b"kernel", b"initrd", "line", SPEC_DIGEST)
    assert with_spec == {**pcrs, 16: hashlib.sha384(bytes(48) + bytes.fromhex(SPEC_DIGEST)).digest()}
