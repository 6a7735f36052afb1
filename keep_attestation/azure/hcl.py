"""Reads the report of Azure's host compatibility layer (HCL), the paravisor that has the virtual TPM.

Layout: Azure docs, "Guest attestation for confidential VMs: HCL report"; openvmm, openhcl/openhcl_attestation_protocol.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256

import msgspec
from cryptography.hazmat.primitives.asymmetric import rsa

from keep_attestation.byte_reader import ByteReader
from keep_attestation.errors import MalformedEvidenceError, UnsupportedEvidenceError
from keep_attestation.tpm.structures import rsa_public_key
from keep_protocol.strict_json import decode_strictly

MAX_REPORT_SIZE = 16 * 1024
HARDWARE_REPORT_SIZE = 1184

_HEADER_SIZE = 32
_RUNTIME_HEADER_SIZE = 20
_SHA256_HASH = 1
_MAX_SETTINGS = 64
_ATTESTATION_KEY = "HCLAkPub"


class ReportType(IntEnum):
    """What made the hardware's report."""

    SNP = 2
    TDX = 4


class _Jwk(msgspec.Struct):
    kid: str
    kty: str
    n: str = ""
    e: str = ""


class _RuntimeData(msgspec.Struct):
    keys: list[_Jwk]
    vm_configuration: dict[str, bool | int | str | None] = msgspec.field(name="vm-configuration", default_factory=dict)
    user_data: str = msgspec.field(name="user-data", default="")


@dataclass(frozen=True, slots=True)
class HclReport:
    """A report as its bytes say; nothing in it is verified."""

    version: int
    type: ReportType
    hardware_report: bytes
    """An SNP report, or a TDREPORT with zeros after its 1024 bytes."""
    runtime_data: bytes
    """JSON, of which the hardware's report carries the SHA-256."""
    attestation_key: rsa.RSAPublicKey
    """Of the virtual TPM; signs with RSASSA and SHA-256."""
    vm_configuration: Mapping[str, bool | int | str | None]
    user_data: bytes
    """What the guest wrote to the vTPM's NV index 0x01400002 before it asked for the report."""

    @property
    def report_data(self) -> bytes:
        """What the hardware's report must carry, all 64 bytes."""
        return sha256(self.runtime_data).digest() + bytes(32)


def parse_hcl_report(data: bytes) -> HclReport:
    """The report in `data`, which may be padded with zeros. Raises `MalformedEvidenceError`."""
    if len(data) > MAX_REPORT_SIZE:
        raise MalformedEvidenceError(f"HCL report: {len(data)} bytes; at most {MAX_REPORT_SIZE} are read")
    reader = ByteReader(data, "HCL report", "little")
    if reader.take(4) != b"HCLA":
        raise MalformedEvidenceError("HCL report: it does not begin with HCLA")
    if (version := reader.integer(4)) not in (1, 2):
        raise UnsupportedEvidenceError(f"HCL report: version {version}; known are 1 and 2")
    size = reader.integer(4)
    reader.take(_HEADER_SIZE - reader.offset)  # request type, status, reserved: nothing vouches for them
    hardware_report = reader.take(HARDWARE_REPORT_SIZE)
    runtime_size, _, number, hash_type, data_size = (reader.integer(4) for _ in range(5))
    try:
        report_type = ReportType(number)
    except ValueError:
        raise UnsupportedEvidenceError(f"HCL report: report type {number}; known are 2 (SNP) and 4 (TDX)") from None
    if hash_type != _SHA256_HASH:
        raise UnsupportedEvidenceError(f"HCL report: hash type {hash_type}, not 1 (SHA-256)")
    runtime_data = reader.take(data_size)
    if size != reader.offset or runtime_size != _RUNTIME_HEADER_SIZE + data_size:
        raise MalformedEvidenceError(
            f"HCL report: sizes {size} and {runtime_size} do not fit {data_size} bytes of data"
        )
    if any(data[reader.offset :]):
        raise MalformedEvidenceError("HCL report: what follows its end is not zero")
    contents = _decode_runtime_data(runtime_data)
    return HclReport(
        version=version,
        type=report_type,
        hardware_report=hardware_report,
        runtime_data=runtime_data,
        attestation_key=_attestation_key(contents.keys),
        vm_configuration=contents.vm_configuration,
        user_data=_user_data(contents.user_data),
    )


def _decode_runtime_data(raw: bytes) -> _RuntimeData:
    try:
        contents = decode_strictly(raw, _RuntimeData)
    except msgspec.DecodeError as error:
        raise MalformedEvidenceError(f"HCL report: its runtime data are not the expected JSON: {error}") from None
    if len(contents.vm_configuration) > _MAX_SETTINGS:
        raise MalformedEvidenceError(f"HCL report: more than {_MAX_SETTINGS} settings of the VM")
    return contents


def _attestation_key(keys: list[_Jwk]) -> rsa.RSAPublicKey:
    found = [key for key in keys if key.kid == _ATTESTATION_KEY]
    if len(found) != 1:
        raise MalformedEvidenceError(f"HCL report: {len(found)} keys are named {_ATTESTATION_KEY}, not one")
    key = found[0]
    if key.kty != "RSA" or key.e != "AQAB":
        raise UnsupportedEvidenceError(f"HCL report: {_ATTESTATION_KEY} is no RSA key with exponent 65537")
    try:
        padded = key.n + "=" * (-len(key.n) % 4)
        modulus = base64.b64decode(padded, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise MalformedEvidenceError(f"HCL report: {_ATTESTATION_KEY} is not in base64url") from None
    return rsa_public_key(modulus, 2048)


def _user_data(text: str) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        raise MalformedEvidenceError("HCL report: user-data is not hex") from None
    if len(value) not in (0, 64):
        raise MalformedEvidenceError(f"HCL report: {len(value)} bytes of user-data, not 64")
    return value
