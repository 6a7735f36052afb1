"""Counts by an NV counter of a TPM, which nobody can set back.

One counter serves all purposes of a keep: a TPM has room for few. Which number was given last to which purpose is in a
ledger in the keep's folder, authenticated with the keep's key. It counts only when it ends with the number that the TPM
shows; so the host may store and lose the ledger, and cannot bring back an older one.
"""

from __future__ import annotations

import hmac
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import msgspec

from app_loader.attesters.tpm_commands import Tpm
from app_loader.attesters.tpm_wire import ResponseCode, TpmError
from app_loader.durable_files import read_small
from app_loader.libcrypto_aead import hkdf_sha256
from app_loader.sealing.errors import RollbackError, SealingError
from app_loader.sealing.root_keys import RootKey
from app_loader.sealing.stored import replace_file
from keep_protocol.sealing_api import CounterSource
from keep_protocol.strict_json import decode_strictly
from keep_protocol.tpm_handles import counter_index

MAX_PURPOSES: Final = 1000

_FILE: Final = "sealing-ledger"
_MAC_SIZE: Final = 32
_AUTH_INFO: Final = b"keep-seal-v1|tpm-counter|auth"
_LEDGER_INFO: Final = b"keep-seal-v1|tpm-counter|ledger"


class _Ledger(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    counter: int
    """What the TPM showed when this was written."""
    latest: dict[str, int]
    """The last number of each purpose."""


class TpmCounter:
    """The counter of one keep. `borrow` gives the TPM for one command sequence; `root` is the keep's key."""

    source = CounterSource.TPM

    def __init__(
        self, borrow: Callable[[], AbstractContextManager[Tpm]], root: RootKey, state: Path, keep: str
    ) -> None:
        secret = root.derive(root.usual)
        self._borrow = borrow
        self._index = counter_index(keep)
        self._auth = hkdf_sha256(secret, salt=b"", info=_AUTH_INFO)
        self._ledger_key = hkdf_sha256(secret, salt=b"", info=_LEDGER_INFO)
        self._path = state / _FILE
        self._one_at_a_time = threading.Lock()

    def next(self, purpose: str) -> int:
        """Counts first and notes it then: a keep that dies in between takes nothing old for the latest."""
        with self._one_at_a_time:
            ledger = self._read()
            if ledger is not None and len(ledger.latest.keys() | {purpose}) > MAX_PURPOSES:
                raise SealingError(
                    f"the TPM counts for {MAX_PURPOSES} purposes already: seal for one of these, or give a `counter`"
                )
            with self._borrow() as tpm:
                try:
                    before, number = self._advance(tpm)
                except (TpmError, OSError) as error:
                    raise SealingError(self._useless(error)) from None
            latest = ledger.latest if ledger is not None and ledger.counter == before else {}
            self._write(_Ledger(number, {**latest, purpose: number}))
            return number

    def check(self, purpose: str, number: int) -> None:
        with self._one_at_a_time:
            ledger = self._read()
            with self._borrow() as tpm:
                try:
                    shown = tpm.read_counter(self._index, self._auth)
                except (TpmError, OSError) as error:
                    raise RollbackError(self._useless(error)) from None
        if ledger is None:
            raise RollbackError(f"{_FILE}, the keep's list of what it sealed last, is missing or damaged")
        if ledger.counter != shown:
            raise RollbackError(
                f"{_FILE}, the keep's list of what it sealed last, ends with {ledger.counter}, and the TPM's counter is"
                f" {shown}: an older list was put back, or the keep died while it sealed"
            )
        latest = ledger.latest.get(purpose)
        if latest is None:
            raise RollbackError(f"nothing that was sealed for {purpose!r} is known to be the latest")
        if number != latest:
            raise RollbackError(
                f"the TPM counted {number} for this envelope, and {latest} for the latest of {purpose!r}"
            )

    def _advance(self, tpm: Tpm) -> tuple[int | None, int]:
        """The counter before and after; before is None when it was made just now."""
        try:
            before = tpm.read_counter(self._index, self._auth)
        except TpmError as error:
            if error.code == ResponseCode.NV_UNINITIALIZED:
                before = None
            elif error.code & ~0xF00 == ResponseCode.HANDLE:
                before = None
                tpm.define_counter(self._index, self._auth)
            else:
                raise
        tpm.increment_counter(self._index, self._auth)
        return before, tpm.read_counter(self._index, self._auth)

    def _useless(self, error: Exception) -> str:
        return (
            f"the TPM's counter at NV index {self._index:#010x} cannot be used: {error}. Give a `counter` of your own,"
            f" or have the TPM's owner make room, or remove that index where it is not this keep's"
        )

    def _read(self) -> _Ledger | None:
        try:
            raw = read_small(self._path)
        except OSError:
            return None
        mac, content = raw[:_MAC_SIZE], raw[_MAC_SIZE:]
        if not hmac.compare_digest(mac, self._mac(content)):
            return None
        try:
            return decode_strictly(content, _Ledger)
        except msgspec.DecodeError:
            return None

    def _write(self, ledger: _Ledger) -> None:
        content = msgspec.json.encode(ledger)
        try:
            replace_file(self._path, self._mac(content) + content)
        except OSError as error:
            raise SealingError(f"{_FILE} cannot be stored: {error.strerror}") from None

    def _mac(self, content: bytes) -> bytes:
        return hmac.digest(self._ledger_key, content, "sha256")
