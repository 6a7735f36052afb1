"""Walking below a folder that guests write to: component by component, never through a link."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from keep_protocol.errors import ErrorCode, RefusalError

MAX_COMPONENT = 255
"""Bytes of one name; NAME_MAX in limits.h(0p)."""

MAX_COMPONENTS = 100
"""Names in one path; trees much deeper than that cannot be counted (`disk_usage.MAX_DEPTH`) and block all uploads."""

FOLDER_MODE = 0o700

_FOLDER_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def display(name: str) -> str:
    """A name for people and JSON: bytes that are not UTF-8 become `\\xNN`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def components(relative: str) -> tuple[str, ...]:
    """The names in a relative path; "" is the folder itself. One `/` at the end is allowed.

    Undecodable bytes are surrogates, as in `os.fsdecode`. Raises `RefusalError` (`file-path-invalid`).
    """
    trimmed = relative.removesuffix("/")
    if not trimmed:
        if relative:
            raise _invalid(relative, "a path is relative and does not begin with '/'")
        return ()
    names = tuple(trimmed.split("/"))
    if len(names) > MAX_COMPONENTS:
        raise RefusalError(ErrorCode.FILE_PATH_INVALID, f"a path has at most {MAX_COMPONENTS} components")
    for name in names:
        check_component(name)
    return names


def check_component(name: str) -> None:
    """Refuse a name that is no name: empty, `.`, `..`, with `/` or NUL, or too long."""
    if name in {"", ".", ".."}:
        raise _invalid(name, f"a path has no component {name!r}")
    if "/" in name or "\0" in name:
        raise _invalid(name, "a component of a path has no '/' and no NUL byte in it")
    if len(os.fsencode(name)) > MAX_COMPONENT:
        raise _invalid(name, f"a component of a path has at most {MAX_COMPONENT} bytes")


def open_beneath(area_root: Path, relative: str, *, create: bool) -> int:
    """A descriptor (O_PATH) of the folder `relative` below `area_root`; the caller closes it.

    With `create`, folders that are missing are made. Raises `RefusalError`.
    """
    return open_folder(area_root, components(relative), create=create)


def open_folder(area_root: Path, names: tuple[str, ...], *, create: bool) -> int:
    """As `open_beneath`, for names that `components` has checked."""
    folder = os.open(area_root, _FOLDER_FLAGS)
    try:
        for name in names:
            below = _step(folder, name, create=create)
            os.close(folder)
            folder = below
    except BaseException:
        os.close(folder)
        raise
    return folder


def _step(folder: int, name: str, *, create: bool) -> int:
    try:
        return os.open(name, _FOLDER_FLAGS, dir_fd=folder)
    except FileNotFoundError:
        if not create:
            raise RefusalError(ErrorCode.FILE_NOT_FOUND, f"there is no folder {display(name)!r}") from None
    except NotADirectoryError:
        raise _not_a_folder(folder, name, create=create) from None
    # A guest may have made it in between; opening decides.
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, FOLDER_MODE, dir_fd=folder)
    return _step(folder, name, create=False)


def _not_a_folder(folder: int, name: str, *, create: bool) -> RefusalError:
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISLNK(os.lstat(name, dir_fd=folder).st_mode):
            return link_refusal(name)
    code = ErrorCode.FILE_CONFLICT if create else ErrorCode.FILE_NOT_FOUND
    return RefusalError(code, f"{display(name)!r} is no folder")


def link_refusal(name: str) -> RefusalError:
    """Links are shown and removed, never followed: a guest makes them."""
    return RefusalError(
        ErrorCode.FILE_PATH_INVALID, f"{display(name)!r} is a symbolic link, which a keep does not follow"
    )


def _invalid(name: str, detail: str) -> RefusalError:
    return RefusalError(ErrorCode.FILE_PATH_INVALID, detail, field=display(name)[:MAX_COMPONENT])
