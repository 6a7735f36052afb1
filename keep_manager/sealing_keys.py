"""The host's halves of the keys that its keeps seal with: one file a keep, gone with the keep."""

from __future__ import annotations

import binascii
import secrets
from pathlib import Path
from typing import Final

from keep_manager.config import write_private
from keep_manager.errors import SealingKeyError
from keep_protocol.names import is_keep_id

KEY_SIZE: Final = 32


class SealingKeys:
    """The folder `state/keys`: in each file one key a line, in base64, the newest first.

    Every method raises `SealingKeyError`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of(self, keep: str) -> tuple[str, ...]:
        """A keep's keys, the newest first; the first one is made when there is none."""
        try:
            return self._read(keep)
        except FileNotFoundError:
            return self._write(keep, (_new_key(),))

    def rotate(self, keep: str) -> tuple[str, ...]:
        """Let a keep seal with a new key from its next start on; what it sealed before it can still open."""
        return self._write(keep, (_new_key(), *self.of(keep)))

    def remove(self, keep: str) -> None:
        """Forget a keep's keys, and with them whatever it sealed."""
        try:
            self._path(keep).unlink(missing_ok=True)
        except OSError as error:
            raise SealingKeyError(f"the sealing key of {keep} cannot be removed: {error.strerror}") from None

    def _read(self, keep: str) -> tuple[str, ...]:
        path = self._path(keep)
        try:
            keys = tuple(path.read_text("ascii").split())
            sizes = {len(binascii.a2b_base64(key, strict_mode=True)) for key in keys}
        except FileNotFoundError:
            raise
        except OSError as error:
            raise SealingKeyError(f"{path} cannot be read: {error.strerror}") from None
        except ValueError:
            sizes = set()
        if sizes != {KEY_SIZE}:
            # Another key would be no help: what was sealed with the lost one stays closed, so somebody has to look.
            raise SealingKeyError(f"{path} holds no keys of {KEY_SIZE} bytes in base64; restore it, or remove it")
        return keys

    def _write(self, keep: str, keys: tuple[str, ...]) -> tuple[str, ...]:
        path = self._path(keep)
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            write_private(path, "".join(f"{key}\n" for key in keys).encode())
        except OSError as error:
            raise SealingKeyError(f"{path} cannot be written: {error.strerror}") from None
        return keys

    def _path(self, keep: str) -> Path:
        if not is_keep_id(keep):
            raise SealingKeyError(f"{keep[:64]!r} is no id of a keep")
        return self._folder / keep


def _new_key() -> str:
    return binascii.b2a_base64(secrets.token_bytes(KEY_SIZE), newline=False).decode()
