"""What can go wrong in a keep's virtual machine outside the app-loader."""

from __future__ import annotations


class GuestError(Exception):
    """Base of this package's errors; its text is what the host is told."""


class SystemCallError(GuestError):
    """The kernel refused something that a machine needs to start."""


class PortError(GuestError):
    """The machine lacks a virtio-serial port."""


class BindingError(GuestError):
    """The spec that the host hands over is not the one that the machine was launched for."""
