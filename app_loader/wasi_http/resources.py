"""The objects that a guest has handles of."""

from __future__ import annotations

import itertools
from typing import ClassVar

from app_loader.wasi_http.errors import GuestFaultError

MAX_RESOURCES = 4096
"""Of one request; each costs memory that no limit of the guest's counts."""

_FIRST_TYPE = 100
_numbers = itertools.count(_FIRST_TYPE)


class Resource:
    """One object with a handle; each direct subclass is a resource type of its own."""

    _type: ClassVar[int]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if Resource in cls.__bases__:
            cls._type = next(_numbers)

    @classmethod
    def type_number(cls) -> int:
        """What wasmtime knows the resource type by."""
        return cls._type

    def drop(self) -> None:
        """The guest has dropped its handle."""


class ResourceTable:
    """Objects by the number that their handle carries."""

    def __init__(self) -> None:
        self._objects: dict[int, Resource] = {}
        self._last = 0

    def add(self, given: Resource) -> int:
        """The number of a new object. Raises `GuestFaultError` when there are too many."""
        if len(self._objects) >= MAX_RESOURCES:
            raise GuestFaultError(f"the guest has {MAX_RESOURCES} handles, more are not possible")
        self._last += 1
        self._objects[self._last] = given
        return self._last

    def get(self, number: int) -> Resource | None:
        """The object with this number."""
        return self._objects.get(number)

    def take(self, number: int) -> Resource | None:
        """The object with this number, whose handle is gone."""
        return self._objects.pop(number, None)

    def clear(self) -> None:
        """Drop what the guest has not dropped."""
        for each in tuple(self._objects.values()):
            each.drop()
        self._objects.clear()
