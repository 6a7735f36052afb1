"""Which folders of the keep a run sees, resolved without following the links that guests may have made."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from app_loader.paths import open_beneath
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.keep_api import Mount
from keep_protocol.states import FileArea


def open_mounts(folder_of: Callable[[FileArea], Path], mounts: Iterable[Mount]) -> tuple[int, ...]:
    """Descriptors (O_PATH) in the order of the mounts; the caller closes them. Raises `RefusalError`.

    `folder_of` says where an area is. A writable folder is made if it is missing.
    """
    with contextlib.ExitStack() as opened:
        descriptors = []
        for mount in mounts:
            descriptor = _open(folder_of, mount)
            opened.callback(os.close, descriptor)
            descriptors.append(descriptor)
        opened.pop_all()
    return tuple(descriptors)


def _open(folder_of: Callable[[FileArea], Path], mount: Mount) -> int:
    if mount.area == FileArea.INPUT and mount.writable:
        raise RefusalError(
            ErrorCode.FIELD_INVALID, f"`mounts`: {mount.guest!r} is writable, but `input` never is", field="mounts"
        )
    if mount.bind and mount.area is not FileArea.SEALED:
        raise RefusalError(
            ErrorCode.FIELD_INVALID, f"`mounts`: {mount.guest!r} has `bind`, which is for area `sealed`", field="mounts"
        )
    try:
        return open_beneath(folder_of(mount.area), mount.path, create=mount.writable)
    except OSError as error:
        detail = f"the folder for {mount.guest!r} cannot be opened: {error.strerror}"
        raise RefusalError(ErrorCode.FILE_CONFLICT, detail, field="mounts") from None
