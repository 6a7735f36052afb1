"""The area `sealed`: files as the envelopes that `/v1/unseal` opens, which can be carried away and put back."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, NamedTuple

from app_loader.paths import display
from app_loader.sealing.envelope import parse
from app_loader.sealing.errors import SealingError
from app_loader.sealing.refusals import refusal_of
from app_loader.sealing.sealer import Sealer
from app_loader.storage import PlainStorage, Reader, Writer, write_all
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.sealing_api import FILE_PURPOSE, MAX_SEALED_FILE, Selector

_MAX_STORED: Final = MAX_SEALED_FILE + 4096
"""Bytes of the longest envelope: that of the longest file, with its header."""


class Binding(NamedTuple):
    """What files at and below a path are bound to when they are sealed; nothing: what is usual for the key."""

    path: Path
    bind: tuple[Selector, ...]


class EnvelopeStorage(PlainStorage):
    """Files as envelopes, whose whole content is in memory while they are made or opened."""

    def __init__(self, root: Path, sealer: Sealer, bindings: Callable[[], Iterable[Binding]]) -> None:
        """`root` is the folder of the areas, `bindings` are those of the runs that are going, the latest first."""
        self._root = root
        self._sealer = sealer
        self._bindings = bindings

    def writer(self, descriptor: int, path: Path) -> Writer:
        return _EnvelopeWriter(self._sealer, descriptor, self._shown(path), self._bound(path))

    def reader(self, descriptor: int, path: Path) -> Reader:
        try:
            # Nothing but the workload itself could know which one is the latest.
            return _Content(self._sealer.unseal_of_any_age(_read(descriptor)))
        except SealingError as error:
            raise _refusal(error, self._shown(path)) from None

    def _shown(self, path: Path) -> str:
        return display(str(path.relative_to(self._root)))

    def _bound(self, path: Path) -> tuple[Selector, ...]:
        fitting = [binding for binding in self._bindings() if path.is_relative_to(binding.path)]
        return max(fitting, key=lambda binding: len(binding.path.parts)).bind if fitting else ()


class _EnvelopeWriter:
    def __init__(self, sealer: Sealer, descriptor: int, path: str, bind: tuple[Selector, ...]) -> None:
        self._sealer = sealer
        self._descriptor = descriptor
        self._path = path
        self._bind = bind
        self._content = bytearray()

    def write(self, content: bytes) -> None:
        self._content += content
        if len(self._content) > MAX_SEALED_FILE:
            raise RefusalError(
                ErrorCode.BODY_TOO_LARGE, f"{self._path}: a file in `sealed` has at most {MAX_SEALED_FILE} bytes"
            )

    def finish(self) -> None:
        try:
            # A machine's counter is one for a purpose: it would let only the latest file be unsealed.
            sealed, _ = self._sealer.seal(bytes(self._content), purpose=FILE_PURPOSE, bind=self._bind, counted=False)
        except SealingError as error:
            raise _refusal(error, self._path) from None
        write_all(self._descriptor, sealed)


class _Content:
    def __init__(self, content: bytes) -> None:
        self._content = content
        self.size = len(content)

    def read(self) -> bytes:
        content, self._content = self._content, b""
        return content


def check_envelope(descriptor: int) -> None:
    """Refuse a file that is no envelope, whoever could open it. Raises `RefusalError`."""
    try:
        parse(_read(descriptor))
    except SealingError as error:
        raise refusal_of(error) from None


def _read(descriptor: int) -> bytes:
    size = os.fstat(descriptor).st_size
    if size > _MAX_STORED:
        raise RefusalError(ErrorCode.BODY_TOO_LARGE, f"an envelope of a file has at most {_MAX_STORED} bytes")
    return os.pread(descriptor, size, 0)


def _refusal(error: SealingError, path: str) -> RefusalError:
    refusal = refusal_of(error)
    return RefusalError(refusal.code, f"{path}: {error}")
