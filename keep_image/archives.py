"""Reads Debian packages (deb(5): ar with a compressed tar) and wheels without their tools."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keep_image.errors import PackageError

_AR_MAGIC: Final = b"!<arch>\n"
_AR_HEADER: Final = 60


@dataclass(frozen=True)
class Member:
    """A file or a symbolic link of a package, by its path without a leading slash."""

    path: str
    content: bytes
    """A link's target, for a link."""
    is_link: bool = False
    is_executable: bool = False


def read_package(path: Path, wanted: Callable[[str], bool] = lambda _: True) -> dict[str, Member]:
    """Files and links of a Debian package whose path is wanted. Raises `PackageError`."""
    members: dict[str, Member] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(_data_of(path)), mode="r|*") as archive:
            for entry in archive:
                name = entry.name.removeprefix("./")
                if not wanted(name):
                    continue
                if entry.issym():
                    members[name] = Member(name, entry.linkname.encode(), is_link=True)
                elif entry.isfile() and (file := archive.extractfile(entry)) is not None:
                    members[name] = Member(name, file.read(), is_executable=bool(entry.mode & 0o100))
    except (tarfile.TarError, EOFError, OSError) as error:
        raise PackageError(f"{path.name} cannot be read: {error}") from None
    return members


def read_wheel(path: Path) -> dict[str, Member]:
    """Files of a wheel. Raises `PackageError`."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {
                name: Member(name, archive.read(name), is_executable=name.endswith(".so"))
                for name in archive.namelist()
                if not name.endswith("/")
            }
    except (zipfile.BadZipFile, OSError) as error:
        raise PackageError(f"{path.name} cannot be read: {error}") from None


def _data_of(path: Path) -> bytes:
    content = path.read_bytes()
    if not content.startswith(_AR_MAGIC):
        raise PackageError(f"{path.name} is no Debian package")
    position = len(_AR_MAGIC)
    while position + _AR_HEADER <= len(content):
        header = content[position : position + _AR_HEADER]
        name = header[:16].decode("ascii", "replace").rstrip(" /")
        try:
            size = int(header[48:58])
        except ValueError:
            break
        position += _AR_HEADER
        if name.startswith("data.tar"):
            if name not in {"data.tar", "data.tar.xz", "data.tar.gz"}:
                raise PackageError(f"{path.name}: {name} is compressed in a way that Python 3.11 cannot read")
            if position + size > len(content):
                raise PackageError(f"{path.name} ends within {name}")
            return content[position : position + size]
        position += size + size % 2
    raise PackageError(f"{path.name} has no data.tar")
