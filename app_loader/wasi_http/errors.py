"""What can go wrong in host functions."""

from __future__ import annotations

from typing import Any

from app_loader.errors import AppLoaderError


class HostError(AppLoaderError):
    """Base of what ends a host function other than its result."""


class GuestFaultError(HostError):
    """The guest did what it must not do; it traps, with this message."""


class ErrorResult(HostError):  # noqa: N818
    """A host function returns the error of its `result` type; `value` is that error."""

    def __init__(self, value: Any = None) -> None:
        super().__init__("the error of a result")
        self.value = value


class ServerGoneError(HostError):
    """The server has closed its end: nobody waits for the response any more."""
