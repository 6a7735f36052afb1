"""Which of a guest's descriptors are ours. WASI's own table has a placeholder for each: no number comes twice."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final, NamedTuple

from app_loader.errors import AppLoaderError
from app_loader.preview1.descriptors import Descriptor
from app_loader.preview1.shim_text import MARKED

MAX_DESCRIPTORS: Final = 400
"""Of ours at a time: with its placeholder each costs two of the process's 1024."""


class Hold(NamedTuple):
    """The functions of HOLD (`shim_text.hold`). Results below 0 are errnos of WASI, negated."""

    marked: Callable[[int], int]
    mark: Callable[[int, int], int]
    reserve: Callable[[int], int]
    close: Callable[[int], int]
    renumber: Callable[[int, int], int]
    valid: Callable[[int], int]
    now: Callable[[], int]


class WasiError(AppLoaderError):
    """WASI refused something; `number` is its errno."""

    def __init__(self, number: int) -> None:
        super().__init__(f"errno {number} of WASI")
        self.number = number


class DescriptorTable:
    """By number. Every number in it is marked in HOLD, and no other."""

    def __init__(self, hold: Hold) -> None:
        self.hold = hold
        self._descriptors: dict[int, Descriptor] = {}
        self._folder = -1
        """A number at which WASI has a folder, from which placeholders are opened."""

    def __getitem__(self, number: int) -> Descriptor:
        """Raises `OSError` (EBADF)."""
        if (found := self._descriptors.get(number)) is None:
            raise OSError(errno.EBADF, "no such descriptor")
        return found

    def get(self, number: int) -> Descriptor | None:
        """The descriptor, if it is ours."""
        return self._descriptors.get(number)

    def put(self, number: int, descriptor: Descriptor) -> None:
        """Take over a number at which WASI has a placeholder."""
        self._descriptors[number] = descriptor
        self.hold.mark(number, 1)

    def keep_folder(self, preopened: int) -> None:
        """Open placeholders from a folder that the guest cannot close: a number of its own, marked and never found.

        `preopened` is one that it can. Raises `WasiError`.
        """
        self._folder = _checked(self.hold.reserve(preopened))
        self.hold.mark(self._folder, 1)

    def reserve(self) -> int:
        """A number that is free, the lowest of WASI's. Raises `OSError` or `WasiError`."""
        if len(self._descriptors) >= MAX_DESCRIPTORS:
            raise OSError(errno.EMFILE, "too many descriptors")
        return _checked(self.hold.reserve(self._folder))

    def release(self, number: int) -> None:
        """Give a reserved number back."""
        self.hold.close(number)

    def close(self, number: int) -> None:
        """Raises `OSError` (EBADF)."""
        self[number].close()
        del self._descriptors[number]
        self.hold.mark(number, 0)
        self.hold.close(number)

    def renumber(self, number: int, target: int) -> None:
        """Move a descriptor over another one, of which at least one is ours. Raises `OSError` and `WasiError`."""
        if self._folder in (number, target) or max(number, target) >= MARKED:
            raise OSError(errno.EBADF, "no such descriptor")
        _checked(self.hold.renumber(number, target))
        if number == target:
            return
        if (replaced := self._descriptors.pop(target, None)) is not None:
            replaced.close()
        moved = self._descriptors.pop(number, None)
        self.hold.mark(number, 0)
        self.hold.mark(target, 0)
        if moved is not None:
            self.put(target, moved)


def _checked(result: int) -> int:
    if result < 0:
        raise WasiError(-result)
    return result
