"""A keep's virtual machine: how QEMU is called, watched, talked to and ended."""

from __future__ import annotations
