"""Root keys that the host gives. They protect what lies on a disk, and nothing against the host itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from app_loader.libcrypto_aead import hkdf_sha256
from app_loader.sealing.errors import SealingError
from app_loader.sealing.root_keys import ROOT_KEY_SIZE, check_selectors, key_id
from app_loader.sealing.stored import read_or_make
from keep_protocol.sealing_api import KeyKind, Selector

_POSSIBLE: Final = frozenset({Selector.KEEP})
_SHARE_FILE: Final = "sealing-share"
_INFO: Final = b"keep-seal-v1|host|"


class HostKey:
    """Made of two halves: one from the manager, one from the keep's own folder."""

    kind = KeyKind.HOST
    usual: tuple[Selector, ...] = (Selector.KEEP,)

    def __init__(self, handed_over: bytes, share: bytes, keep: str) -> None:
        """Raises `SealingError` when a half is none."""
        if len(handed_over) != ROOT_KEY_SIZE or len(share) != ROOT_KEY_SIZE:
            raise SealingError(f"each half of a host key has {ROOT_KEY_SIZE} bytes")
        self._secret = hkdf_sha256(handed_over, salt=share, info=_INFO + keep.encode())
        self.id = key_id(self._secret)

    def derive(self, selectors: tuple[Selector, ...]) -> bytes:
        check_selectors(self.kind, _POSSIBLE, selectors)
        return self._secret


def read_share(state: Path) -> bytes:
    """The keep's half, made when it is missing. Raises `SealingError`.

    What the manager hands over is in the server's memory before the runner is forked, and so in every run's too. This
    half is read later, from where no run can read; without it a guest that breaks out has nothing.
    """
    share = read_or_make(state / _SHARE_FILE, lambda: os.urandom(ROOT_KEY_SIZE))
    if len(share) != ROOT_KEY_SIZE:
        raise SealingError(f"the keep's half of its key has {len(share)} bytes, not {ROOT_KEY_SIZE}: it is damaged")
    return share
