"""What keeps a keep from starting; every message is the last line of its log."""

from __future__ import annotations


class KeepLoaderError(Exception):
    """Base of this package's errors."""


class HandoverError(KeepLoaderError):
    """The manager did not hand over a socket and a configuration, or not usable ones."""


class LockError(KeepLoaderError):
    """Another process uses this keep's state."""


class MachineError(KeepLoaderError):
    """The keep's virtual machine cannot be started, or has ended without having been asked to."""


class CloneError(MachineError):
    """A template's clone did not come to life; its keep can start from the image instead."""
