"""AWS Nitro documents from /dev/nsm (aws-nitro-enclaves-nsm-api, docs/attestation_process.md)."""

from __future__ import annotations

import ctypes
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from app_loader.attesters.interface import Attestation, Statement
from app_loader.errors import AttesterError
from keep_protocol.evidence import EvidenceKind, encode_cbor

DEVICE: Final = Path("/dev/nsm")
_IOCTL: Final = 0xC0200A00
_MAX_REQUEST: Final = 0x1000
_MAX_RESPONSE: Final = 0x3000
_EXTENDED: Final = b"\xa1\x69ExtendPCR\xa1\x64data"
_LOCKED: Final = b"\x67LockPCR"
"""How the answers begin that say that a PCR was extended, or locked."""
_DOCUMENT: Final = b"\xa1\x6bAttestation\xa1\x68document"
"""How every answer that is a document begins: {"Attestation": {"document": …."""


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


class _Message(ctypes.Structure):
    _fields_ = (("request", _Vector), ("response", _Vector))


Exchange = Callable[[bytes], bytes]
"""Sends a CBOR request to the device; its answer, without padding that the device leaves behind it."""


class NitroAttester:
    """Documents of the Nitro Secure Module."""

    kind = EvidenceKind.NITRO

    def __init__(self, exchange: Exchange | None = None) -> None:
        """Raises `AttesterError` where there is no module."""
        if exchange is None:
            if not DEVICE.exists():
                raise AttesterError(f"{DEVICE} does not exist: this is no Nitro enclave")
            exchange = _exchange
        self._exchange = exchange

    def attest(self, statement: Statement) -> Attestation:
        members: dict[str, bytes] = {"user_data": statement.claims, "public_key": statement.spki}
        if statement.nonce is not None:
            members["nonce"] = statement.nonce
        answer = self._exchange(encode_cbor({"Attestation": members}))
        if not answer.startswith(_DOCUMENT):
            raise AttesterError(f"the Nitro module made no document: {answer[:64]!r}")
        return Attestation(_byte_string(answer[len(_DOCUMENT) :]))


def extend_and_lock(index: int, data: bytes, exchange: Exchange | None = None) -> None:
    """Extend PCR `index` with `data`, and lock it: documents have only what is locked. Raises `AttesterError`."""
    ask = exchange or _exchange
    requests = (
        (encode_cbor({"ExtendPCR": {"index": index, "data": data}}), _EXTENDED),
        (encode_cbor({"LockPCR": {"index": index}}), _LOCKED),
    )
    for request, begins in requests:
        if not (answer := ask(request)).startswith(begins):
            raise AttesterError(f"the Nitro module does not take PCR {index}: {answer[:64]!r}")


def _byte_string(data: bytes) -> bytes:
    """The CBOR byte string with which `data` begins: 24 to 65535 bytes, as documents are."""
    width = {0x58: 1, 0x59: 2}.get(data[0] if data else 0)
    if width is not None and len(data) > width:
        size = int.from_bytes(data[1 : 1 + width], "big")
        content = data[1 + width : 1 + width + size]
        if len(content) == size:
            return content
    raise AttesterError("the Nitro module's document is cut short")


def _exchange(request: bytes) -> bytes:
    if len(request) > _MAX_REQUEST:
        raise AttesterError(f"a request to the Nitro module has at most {_MAX_REQUEST} bytes, not {len(request)}")
    question = ctypes.create_string_buffer(request, len(request))
    answer = ctypes.create_string_buffer(_MAX_RESPONSE)
    message = _Message(
        _Vector(ctypes.addressof(question), len(request)), _Vector(ctypes.addressof(answer), _MAX_RESPONSE)
    )
    try:
        descriptor = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(descriptor, _IOCTL, message)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise AttesterError(f"{DEVICE}: {error.strerror}") from None
    return answer.raw[: min(message.response.size, _MAX_RESPONSE)]
