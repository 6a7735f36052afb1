"""The wire format of TPM 2.0: numbers, sized buffers, PCR selections, response codes by name.

Source: TPM 2.0 Library, Part 2 (structures), revision 1.59.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum, IntFlag


class Algorithm(IntEnum):
    """TPM_ALG_ID."""

    RSA = 0x0001
    SHA1 = 0x0004
    AES = 0x0006
    KEYEDHASH = 0x0008
    SHA256 = 0x000B
    SHA384 = 0x000C
    SHA512 = 0x000D
    NULL = 0x0010
    ECDSA = 0x0018
    ECC = 0x0023
    CFB = 0x0043


class ResponseCode(IntEnum):
    """TPM_RC that callers tell apart; a format-one code without the number of its handle."""

    HANDLE = 0x08B
    """Nothing is at the handle."""
    NV_UNINITIALIZED = 0x14A


class ObjectAttribute(IntFlag):
    """TPMA_OBJECT."""

    FIXED_TPM = 1 << 1
    FIXED_PARENT = 1 << 4
    SENSITIVE_DATA_ORIGIN = 1 << 5
    USER_WITH_AUTH = 1 << 6
    ADMIN_WITH_POLICY = 1 << 7
    NO_DICTIONARY_ATTACK = 1 << 10
    RESTRICTED = 1 << 16
    DECRYPT = 1 << 17
    SIGN = 1 << 18


_RESPONSE_NAMES = {
    0x100: "TPM_RC_INITIALIZE",
    0x101: "TPM_RC_FAILURE",
    0x120: "TPM_RC_DISABLED",
    0x128: "TPM_RC_PCR_CHANGED",
    0x12F: "TPM_RC_AUTH_UNAVAILABLE",
    0x143: "TPM_RC_COMMAND_CODE",
    0x146: "TPM_RC_NV_RANGE",
    0x148: "TPM_RC_NV_LOCKED",
    0x149: "TPM_RC_NV_AUTHORIZATION",
    0x14A: "TPM_RC_NV_UNINITIALIZED",
    0x14B: "TPM_RC_NV_SPACE",
    0x14C: "TPM_RC_NV_DEFINED",
    0x901: "TPM_RC_CONTEXT_GAP",
    0x902: "TPM_RC_OBJECT_MEMORY",
    0x903: "TPM_RC_SESSION_MEMORY",
    0x904: "TPM_RC_MEMORY",
    0x905: "TPM_RC_SESSION_HANDLES",
    0x908: "TPM_RC_YIELDED",
    0x909: "TPM_RC_CANCELED",
    0x90A: "TPM_RC_TESTING",
    0x910: "TPM_RC_REFERENCE_H0",
    0x920: "TPM_RC_NV_RATE",
    0x921: "TPM_RC_LOCKOUT",
    0x922: "TPM_RC_RETRY",
    0x923: "TPM_RC_NV_UNAVAILABLE",
}
_FORMAT_ONE_NAMES = {
    0x001: "TPM_RC_ASYMMETRIC",
    0x002: "TPM_RC_ATTRIBUTES",
    0x003: "TPM_RC_HASH",
    0x004: "TPM_RC_VALUE",
    0x005: "TPM_RC_HIERARCHY",
    0x00A: "TPM_RC_TYPE",
    0x00B: "TPM_RC_HANDLE",
    0x00E: "TPM_RC_AUTH_FAIL",
    0x00F: "TPM_RC_NONCE",
    0x012: "TPM_RC_SCHEME",
    0x015: "TPM_RC_SIZE",
    0x016: "TPM_RC_SYMMETRIC",
    0x018: "TPM_RC_SELECTOR",
    0x01A: "TPM_RC_INSUFFICIENT",
    0x01B: "TPM_RC_SIGNATURE",
    0x01C: "TPM_RC_KEY",
    0x01D: "TPM_RC_POLICY_FAIL",
    0x01F: "TPM_RC_INTEGRITY",
    0x020: "TPM_RC_TICKET",
    0x021: "TPM_RC_RESERVED_BITS",
    0x022: "TPM_RC_BAD_AUTH",
    0x023: "TPM_RC_EXPIRED",
    0x024: "TPM_RC_POLICY_CC",
    0x026: "TPM_RC_CURVE",
}


class TpmError(Exception):
    """A TPM refused a command or gave an answer that is none; `code` is its response code, 0 where it gave none."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


def response_name(code: int) -> str:
    """The name of a TPM_RC, without the number of the handle, session or parameter that it is about (Part 2, 6.6)."""
    name = _FORMAT_ONE_NAMES.get(code & 0x3F) if code & 0x80 else _RESPONSE_NAMES.get(code)
    return name or f"TPM_RC {code:#05x}"


PcrSelection = Mapping[int, Sequence[int]]
"""Register numbers by the TPM_ALG_ID of their bank."""


def pcr_selection(selection: PcrSelection) -> bytes:
    """TPML_PCR_SELECTION. Raises `ValueError` for numbers that are no PCR's."""
    encoded = u32(len(selection))
    for algorithm, registers in sorted(selection.items()):
        bits = 0
        for register in registers:
            if not 0 <= register < 24:
                raise ValueError(f"there is no PCR {register}")
            bits |= 1 << register
        encoded += u16(algorithm) + b"\x03" + bits.to_bytes(3, "little")
    return encoded


class Response:
    """Reads a response in order; raises `TpmError` where it ends too early."""

    def __init__(self, raw: bytes, handle: int = 0) -> None:
        self._raw = raw
        self._offset = 0
        self.handle = handle

    def take(self, size: int) -> bytes:
        piece = self._raw[self._offset : self._offset + size]
        if len(piece) != size:
            raise TpmError("the TPM's response ends too early")
        self._offset += size
        return piece

    def integer(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def sized(self) -> bytes:
        """The content of a TPM2B."""
        return self.take(self.integer(2))

    def rest(self) -> bytes:
        return self.take(len(self._raw) - self._offset)

    def selection(self) -> dict[int, list[int]]:
        """TPML_PCR_SELECTION."""
        selection: dict[int, list[int]] = {}
        for _ in range(self.integer(4)):
            algorithm = self.integer(2)
            bits = int.from_bytes(self.take(self.integer(1)), "little")
            selection[algorithm] = [register for register in range(32) if bits >> register & 1]
        return selection


def u16(value: int) -> bytes:
    return value.to_bytes(2, "big")


def u32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def sized(content: bytes) -> bytes:
    """A TPM2B."""
    return u16(len(content)) + content
