"""Seals and unseals with a keep's keys, and decides what is too old."""

from __future__ import annotations

from collections.abc import Callable

from app_loader.clock import now
from app_loader.sealing.envelope import VERSION, Label, parse, seal, unseal
from app_loader.sealing.errors import PurposeError, RollbackError
from app_loader.sealing.root_keys import KeyRing
from keep_protocol.sealing_api import SealedHeader, SealingKey, Selector


class Sealer:
    """What a keep seals and unseals with. Every method raises `SealingError`."""

    def __init__(self, keys: KeyRing, clock: Callable[[], str] = now) -> None:
        self._keys = keys
        self._clock = clock

    def seal(
        self, data: bytes, *, purpose: str, bind: tuple[Selector, ...] = (), counter: int | None = None
    ) -> tuple[bytes, SealingKey]:
        """`data` in an envelope, and the key that opens it; bound to `bind`, or to what is usual for the key."""
        root = self._keys.newest()
        selectors = tuple(sorted(set(bind))) or root.usual
        label = Label(root.kind, root.id, selectors, purpose, counter, self._clock())
        return seal(root.derive(selectors), data, label), SealingKey(root.id, root.kind, selectors)

    def unseal(
        self,
        sealed: bytes,
        *,
        purpose: str | None = None,
        allow_rollback: bool = False,
        expected_counter: int | None = None,
    ) -> tuple[bytes, SealedHeader, bool]:
        """The data, what is written on the envelope, and whether a counter proved that it is no older than it must be.

        `expected_counter` is the lowest that is accepted. Without one, `allow_rollback` has to say that any age is.
        """
        envelope = parse(sealed)
        label = envelope.label
        root = self._keys.find(label.kind, label.key_id)
        data = unseal(root.derive(label.selectors), envelope)
        # Only now is the label known to be true.
        if purpose is not None and label.purpose != purpose:
            raise PurposeError(f"the envelope was sealed for {label.purpose!r}, not for {purpose!r}")
        _check_age(label.counter, expected_counter, allow_rollback=allow_rollback)
        key = SealingKey(label.key_id, label.kind, label.selectors)
        header = SealedHeader(VERSION, key, label.purpose, label.counter, label.created)
        return data, header, expected_counter is not None


def _check_age(counter: int | None, expected: int | None, *, allow_rollback: bool) -> None:
    if expected is None:
        if not allow_rollback:
            raise RollbackError(
                "nothing proves that this is the latest that was sealed: give `expected_counter`, or `allow_rollback`"
            )
    elif counter is None:
        raise RollbackError(f"the envelope has no counter, so it is not known to be {expected} or later")
    elif counter < expected:
        raise RollbackError(f"the envelope's counter is {counter}, and {expected} is the lowest that is accepted")
