"""What all root keys have in common, and the ring of those that a keep has."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final, Protocol

from app_loader.sealing.errors import SealingUnavailableError, SelectorError, UnknownKeyError
from keep_protocol.sealing_api import KeyKind, Selector

ROOT_KEY_SIZE: Final = 32
_ID_INFO: Final = b"keep-seal-v1|id|"


class RootKey(Protocol):
    """A secret that keys of envelopes are derived from."""

    kind: KeyKind
    id: str
    """32 hex digits that tell keys apart and nothing about them."""
    usual: tuple[Selector, ...]
    """What it binds to when nothing else is asked for."""

    def derive(self, selectors: tuple[Selector, ...]) -> bytes:
        """32 bytes that exist only where everything selected is as it is now. Raises `SealingError`."""
        ...


class KeyRing:
    """The root keys of a keep. The first seals; all of them unseal."""

    def __init__(self, keys: Sequence[RootKey]) -> None:
        self._keys = tuple(keys)

    def newest(self) -> RootKey:
        """The key to seal with. Raises `SealingUnavailableError`."""
        if not self._keys:
            raise SealingUnavailableError("this keep has no key to seal with")
        return self._keys[0]

    def find(self, kind: KeyKind, key_id: str) -> RootKey:
        """The key that an envelope names. Raises `UnknownKeyError`."""
        for key in self._keys:
            if (key.kind, key.id) == (kind, key_id):
                return key
        known = ", ".join(f"{key.kind} {key.id}" for key in self._keys) or "none"
        raise UnknownKeyError(f"the key {kind} {key_id} is not one of this keep's, which are: {known}")


def key_id(secret: bytes) -> str:
    """What a key with this secret is called."""
    return hashlib.sha256(_ID_INFO + secret).hexdigest()[:32]


def check_selectors(kind: KeyKind, possible: frozenset[Selector], selectors: tuple[Selector, ...]) -> None:
    """Raise `SelectorError` for what a kind of key cannot be bound to."""
    if impossible := sorted(set(selectors) - possible):
        raise SelectorError(
            f"keys of kind {kind} are bound to {', '.join(sorted(possible))} and cannot be bound to {impossible[0]}"
        )
