"""The SEV-SNP attestation report: layout and must-be-zero rules (AMD 56860, "ATTESTATION_REPORT Structure")."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag

from keep_attestation.byte_reader import ByteReader
from keep_attestation.errors import MalformedEvidenceError, UnsupportedEvidenceError

REPORT_SIZE = 0x4A0
SIGNED_SIZE = 0x2A0
"""The signature covers the bytes before it alone; R, S and the padding after them are anybody's."""

SUPPORTED_VERSIONS = frozenset({2, 3, 4, 5})

HOST_REQUESTED_VMPL = 0xFFFF_FFFF
"""VMPL of a report that the host asked for (MSG_REPORT_REQ of the hypervisor): no guest vouches for its data."""

NO_MIGRATION_AGENT = b"\xff" * 32
"""REPORT_ID_MA of a guest without a migration agent."""

_ECDSA_P384_SHA384 = 1
_COORDINATE_SIZE = 48
_MAX_VMPL = 3


class GuestPolicyFlag(IntFlag):
    """Bits of POLICY, which the guest's owner set at launch and the measurement does not cover."""

    SMT = 1 << 16
    MIGRATE_MA = 1 << 18
    DEBUG = 1 << 19
    SINGLE_SOCKET = 1 << 20
    CXL = 1 << 21
    MEM_AES_256_XTS = 1 << 22
    RAPL_DIS = 1 << 23
    CIPHERTEXT_HIDING = 1 << 24
    PAGE_SWAP_DIS = 1 << 25


_POLICY_ALWAYS_ONE = 1 << 17
# int: the complement of a flag would leave out the bits that no flag names.
_POLICY_FLAGS = int(sum(GuestPolicyFlag))
_POLICY_KNOWN = _POLICY_FLAGS | _POLICY_ALWAYS_ONE | 0xFFFF


@dataclass(frozen=True, slots=True)
class GuestPolicy:
    """POLICY: the oldest firmware ABI that may run the guest, and what the host may do to it."""

    value: int
    abi_major: int
    abi_minor: int
    flags: GuestPolicyFlag


class PlatformFlag(IntFlag):
    """Bits of PLATFORM_INFO. Others occur: the firmware of real Turin machines sets bit 6, which is reserved."""

    SMT = 1 << 0
    TSME = 1 << 1
    ECC = 1 << 2
    RAPL_DIS = 1 << 3
    CIPHERTEXT_HIDING = 1 << 4
    ALIAS_CHECK_COMPLETE = 1 << 5
    """The firmware looked for aliased memory (BadRAM, AMD-SB-3015) after the last reset."""
    TIO = 1 << 7


_PLATFORM_KNOWN = int(sum(PlatformFlag))


@dataclass(frozen=True, slots=True)
class PlatformInfo:
    """PLATFORM_INFO. `unknown` holds the bits without a name here: reported, never refused."""

    value: int
    flags: PlatformFlag
    unknown: int


class SigningKey(IntEnum):
    """KEY_INFO.SIGNING_KEY: what the report says it is signed with."""

    VCEK = 0
    VLEK = 1
    NONE = 7


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """KEY_INFO."""

    value: int
    author_key_en: bool
    """The owner's author key signed the ID key, and its digest is in the report."""
    mask_chip_key: bool
    """The host configured the firmware not to sign with the chip's key."""
    signing_key: SigningKey


@dataclass(frozen=True, slots=True)
class FirmwareVersion:
    """Of the SNP firmware: its API and its build."""

    major: int
    minor: int
    build: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.build}"


@dataclass(frozen=True, slots=True)
class CpuId:
    """CPUID family (combined), model and stepping of the processor; zero in reports of version 2."""

    family: int
    model: int
    stepping: int


@dataclass(frozen=True, slots=True)
class Report:
    """A report as its bytes say; nothing in it is verified yet. TCBs are raw: their layout depends on the product."""

    version: int
    guest_svn: int
    policy: GuestPolicy
    family_id: bytes
    image_id: bytes
    vmpl: int
    signature_algorithm: int
    """1: ECDSA P-384 with SHA-384; there is no other yet."""
    current_tcb: bytes
    platform_info: PlatformInfo
    key_info: KeyInfo
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    reported_tcb: bytes
    cpuid: CpuId
    chip_id: bytes
    committed_tcb: bytes
    current_version: FirmwareVersion
    committed_version: FirmwareVersion
    launch_tcb: bytes
    launch_mit_vector: int
    current_mit_vector: int
    signed: bytes
    """The bytes that the signature covers."""
    signature_r: int
    signature_s: int


def parse_report(data: bytes) -> Report:
    """The report in `data`, of exactly 1184 bytes and of version 2 to 5.

    Raises `MalformedEvidenceError`: also for reserved bits and bytes that are not zero, since nobody can say what they
    mean (unknown bits of PLATFORM_INFO excepted); `UnsupportedEvidenceError` for versions and signature algorithms.
    """
    if len(data) != REPORT_SIZE:
        raise MalformedEvidenceError(f"an SNP report has {REPORT_SIZE} bytes, {len(data)} came")
    reader = ByteReader(data, "SNP report", "little")
    version = reader.integer(4)
    if version not in SUPPORTED_VERSIONS:
        raise UnsupportedEvidenceError(f"SNP report version {version} is not supported; versions 2 to 5 are")
    guest_svn = reader.integer(4)
    policy = _guest_policy(reader.integer(8))
    family_id = reader.take(16)
    image_id = reader.take(16)
    vmpl = reader.integer(4)
    if vmpl > _MAX_VMPL and vmpl != HOST_REQUESTED_VMPL:
        raise MalformedEvidenceError(f"SNP report: VMPL is {vmpl:#x}; there are 0 to {_MAX_VMPL}")
    algorithm = reader.integer(4)
    if algorithm != _ECDSA_P384_SHA384:
        raise UnsupportedEvidenceError(f"SNP report: signature algorithm {algorithm} is not ECDSA P-384 with SHA-384")
    current_tcb = reader.take(8)
    platform_info = _platform_info(reader.integer(8))
    key_info = _key_info(reader.integer(4))
    _zero(reader, 4)
    report_data = reader.take(64)
    measurement = reader.take(48)
    host_data = reader.take(32)
    id_key_digest = reader.take(48)
    author_key_digest = reader.take(48)
    report_id = reader.take(32)
    report_id_ma = reader.take(32)
    reported_tcb = reader.take(8)
    if version >= 3:
        cpuid = CpuId(family=reader.integer(1), model=reader.integer(1), stepping=reader.integer(1))
    else:
        _zero(reader, 3)
        cpuid = CpuId(0, 0, 0)
    _zero(reader, 21)
    chip_id = reader.take(64)
    committed_tcb = reader.take(8)
    current_version = _firmware_version(reader)
    committed_version = _firmware_version(reader)
    launch_tcb = reader.take(8)
    if version >= 5:
        launch_mit_vector, current_mit_vector = reader.integer(8), reader.integer(8)
    else:
        _zero(reader, 16)
        launch_mit_vector = current_mit_vector = 0
    _zero(reader, SIGNED_SIZE - reader.offset)
    signature_r = _coordinate(reader)
    signature_s = _coordinate(reader)
    # Not signed; a free choice here would give one report many encodings.
    _zero(reader, reader.remaining)
    return Report(
        version=version,
        guest_svn=guest_svn,
        policy=policy,
        family_id=family_id,
        image_id=image_id,
        vmpl=vmpl,
        signature_algorithm=algorithm,
        current_tcb=current_tcb,
        platform_info=platform_info,
        key_info=key_info,
        report_data=report_data,
        measurement=measurement,
        host_data=host_data,
        id_key_digest=id_key_digest,
        author_key_digest=author_key_digest,
        report_id=report_id,
        report_id_ma=report_id_ma,
        reported_tcb=reported_tcb,
        cpuid=cpuid,
        chip_id=chip_id,
        committed_tcb=committed_tcb,
        current_version=current_version,
        committed_version=committed_version,
        launch_tcb=launch_tcb,
        launch_mit_vector=launch_mit_vector,
        current_mit_vector=current_mit_vector,
        signed=data[:SIGNED_SIZE],
        signature_r=signature_r,
        signature_s=signature_s,
    )


def _zero(reader: ByteReader, size: int) -> None:
    offset = reader.offset
    if any(reader.take(size)):
        raise MalformedEvidenceError(f"SNP report: reserved bytes {offset:#x} to {offset + size - 1:#x} are not zero")


def _guest_policy(value: int) -> GuestPolicy:
    if not value & _POLICY_ALWAYS_ONE:
        raise MalformedEvidenceError(f"SNP report: guest policy {value:#x} has bit 17 clear, which is always set")
    if unknown := value & ~_POLICY_KNOWN:
        raise MalformedEvidenceError(f"SNP report: guest policy {value:#x} has reserved bits {unknown:#x} set")
    return GuestPolicy(
        value=value,
        abi_major=value >> 8 & 0xFF,
        abi_minor=value & 0xFF,
        flags=GuestPolicyFlag(value & _POLICY_FLAGS),
    )


def _platform_info(value: int) -> PlatformInfo:
    known = value & _PLATFORM_KNOWN
    return PlatformInfo(value=value, flags=PlatformFlag(known), unknown=value ^ known)


def _key_info(value: int) -> KeyInfo:
    if value >> 5:
        raise MalformedEvidenceError(f"SNP report: key info {value:#x} has reserved bits set")
    try:
        signing_key = SigningKey(value >> 2 & 7)
    except ValueError:
        raise UnsupportedEvidenceError(f"SNP report: signing key {value >> 2 & 7} is neither VCEK nor VLEK") from None
    return KeyInfo(value=value, author_key_en=bool(value & 1), mask_chip_key=bool(value & 2), signing_key=signing_key)


def _firmware_version(reader: ByteReader) -> FirmwareVersion:
    build, minor, major = reader.integer(1), reader.integer(1), reader.integer(1)
    _zero(reader, 1)
    return FirmwareVersion(major=major, minor=minor, build=build)


def _coordinate(reader: ByteReader) -> int:
    value = reader.integer(_COORDINATE_SIZE)
    _zero(reader, 72 - _COORDINATE_SIZE)
    return value
