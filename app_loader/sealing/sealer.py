"""Seals and unseals with a keep's keys, and decides what is too old."""

from __future__ import annotations

from collections.abc import Callable

from app_loader.clock import now
from app_loader.sealing.envelope import VERSION, Label, parse, seal, unseal
from app_loader.sealing.errors import PurposeError, RollbackError
from app_loader.sealing.machine_counter import MachineCounter
from app_loader.sealing.root_keys import KeyRing
from keep_protocol.sealing_api import CounterSource, SealedHeader, SealingKey, Selector


class Sealer:
    """What a keep seals and unseals with; `counter` where its machine has one. Every method raises `SealingError`."""

    def __init__(self, keys: KeyRing, clock: Callable[[], str] = now, counter: MachineCounter | None = None) -> None:
        self._keys = keys
        self._clock = clock
        self._counter = counter

    @property
    def keys(self) -> KeyRing:
        """The root keys of the keep."""
        return self._keys

    def check(self, bind: tuple[Selector, ...]) -> None:
        """Raise `SealingError` if nothing can be bound to `bind`."""
        if bind:
            self._keys.newest().derive(tuple(sorted(set(bind))))

    def seal(
        self,
        data: bytes,
        *,
        purpose: str,
        bind: tuple[Selector, ...] = (),
        counter: int | None = None,
        counted: bool = True,
    ) -> tuple[bytes, SealedHeader]:
        """`data` in an envelope, and what is written on it; bound to `bind`, or to what is usual for the key.

        Without a `counter` the machine's counts, where there is one, unless it is not to be `counted`. Blocks while
        hardware works.
        """
        root = self._keys.newest()
        selectors = tuple(sorted(set(bind))) or root.usual
        derived = root.derive(selectors)
        source = None
        if counted and counter is None and self._counter is not None:
            # Last of all that can fail: from now on everything that was sealed before is out of date.
            source, counter = self._counter.source, self._counter.next(purpose)
        label = Label(root.kind, root.id, selectors, purpose, counter, self._clock(), source)
        return seal(derived, data, label), _header(label)

    def unseal_of_any_age(self, sealed: bytes) -> bytes:
        """The data of an envelope, whatever it was sealed for; no counter is asked."""
        envelope = parse(sealed)
        label = envelope.label
        return unseal(self._keys.find(label.kind, label.key_id).derive(label.selectors), envelope)

    def unseal(
        self,
        sealed: bytes,
        *,
        purpose: str | None = None,
        allow_rollback: bool = False,
        expected_counter: int | None = None,
    ) -> tuple[bytes, SealedHeader, bool]:
        """The data, what is written on the envelope, and whether a counter proved that it is no older than it must be.

        `expected_counter` is the lowest that is accepted. Without one the machine's counter decides where it counted;
        where nothing does, `allow_rollback` has to say that any age is accepted.
        """
        envelope = parse(sealed)
        label = envelope.label
        root = self._keys.find(label.kind, label.key_id)
        data = unseal(root.derive(label.selectors), envelope)
        # Only now is the label known to be true.
        if purpose is not None and label.purpose != purpose:
            raise PurposeError(f"the envelope was sealed for {label.purpose!r}, not for {purpose!r}")
        try:
            self._check_age(label, expected_counter)
        except RollbackError:
            # A counter that the caller names is a demand, whatever else is allowed.
            if expected_counter is not None or not allow_rollback:
                raise
            return data, _header(label), False
        return data, _header(label), True

    def _check_age(self, label: Label, expected: int | None) -> None:
        if expected is not None:
            if label.counter is None:
                raise RollbackError(f"the envelope has no counter, so it is not known to be {expected} or later")
            if label.counter < expected:
                raise RollbackError(
                    f"the envelope's counter is {label.counter}, and {expected} is the lowest that is accepted"
                )
        elif label.counter is None or label.counted_by_machine is None:
            raise RollbackError(
                "nothing proves that this is the latest that was sealed: give `expected_counter`, or `allow_rollback`"
            )
        elif self._counter is None or self._counter.source is not label.counted_by_machine:
            raise RollbackError(f"this keep does not have the counter ({label.counted_by_machine}) that counted this")
        else:
            self._counter.check(label.purpose, label.counter)


def _header(label: Label) -> SealedHeader:
    key = SealingKey(label.key_id, label.kind, label.selectors)
    source = label.counted_by_machine or (None if label.counter is None else CounterSource.OWNER)
    return SealedHeader(VERSION, key, label.purpose, label.counter, label.created, source)
