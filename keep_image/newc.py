"""Writes cpio archives in the format newc, as Linux unpacks its initramfs.

The same entries give the same bytes: they are sorted, and times, owners, inodes and links are fixed. Device nodes need
no root. Source: Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_MAGIC: Final = b"070701"
_TRAILER: Final = "TRAILER!!!"
_BLOCK: Final = 512


@dataclass(frozen=True)
class Entry:
    """One entry: a folder, a file, a symbolic link (its target is `content`) or a device node."""

    path: str
    mode: int
    """File type and permissions, as `st_mode`."""
    content: bytes = b""
    device: tuple[int, int] = (0, 0)
    """Major and minor number of a device node."""


def folder(path: str, permissions: int = 0o755) -> Entry:
    return Entry(path, stat.S_IFDIR | permissions)


def file(path: str, content: bytes, permissions: int = 0o644) -> Entry:
    return Entry(path, stat.S_IFREG | permissions, content)


def link(path: str, target: str) -> Entry:
    return Entry(path, stat.S_IFLNK | 0o777, target.encode())


def character_device(path: str, major: int, minor: int, permissions: int = 0o600) -> Entry:
    return Entry(path, stat.S_IFCHR | permissions, device=(major, minor))


def write_archive(entries: Iterable[Entry]) -> bytes:
    """The archive; folders that entries lie in and that are not among them are added."""
    by_path = {entry.path: entry for entry in entries}
    for path in tuple(by_path):
        while path := path.rpartition("/")[0]:
            by_path.setdefault(path, folder(path))
    output = bytearray()
    for inode, path in enumerate(sorted(by_path), start=1):
        _append(output, by_path[path], inode)
    _append(output, Entry(_TRAILER, 0), 0)
    output += bytes(-len(output) % _BLOCK)
    return bytes(output)


def _append(output: bytearray, entry: Entry, inode: int) -> None:
    name = entry.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    # inode, mode, uid, gid, nlink, mtime, size, device of the file system, device of the node, name, checksum
    fields = (inode, entry.mode, 0, 0, links, 0, len(entry.content), 0, 0, *entry.device, len(name), 0)
    output += _MAGIC + b"".join(b"%08X" % field for field in fields) + name
    output += bytes(-len(output) % 4)
    output += entry.content
    output += bytes(-len(output) % 4)
