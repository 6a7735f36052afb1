"""Areas in plaintext while runs have them: opened for the first run, sealed at the end of each, gone with the last."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Final

from app_loader.area_states import next_state, replace_state
from app_loader.at_rest import trees
from app_loader.at_rest.envelopes import Binding, EnvelopeStorage
from app_loader.file_room import MAX_ENTRIES
from app_loader.files import Files
from app_loader.paths import FOLDER_MODE, components
from app_loader.plaintext_memory import plaintext_folder
from app_loader.sealing.errors import SealingError
from app_loader.sealing.refusals import refusal_of
from app_loader.sealing.sealer import Sealer
from app_loader.storage import Storage
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.keep_api import Mount
from keep_protocol.removal import exhaust, remove_tree
from keep_protocol.states import FileArea

_log = logging.getLogger(__name__)

_NOT_KEPT: Final = "what the run wrote to its folders is not kept, which are as they were sealed last"


class AreaView:
    """One area in plaintext: all runs that have the area see the same."""

    def __init__(self, area: FileArea, folder: Path, storage: Storage) -> None:
        self.area = area
        self.folder = folder
        self.storage = storage
        self.tree: trees.Tree = {}
        self.changed = False
        self.runs: dict[str, tuple[Mount, ...]] = {}
        """The mounts of the area by the runs that have it, the latest last."""

    def temporary(self) -> Path:
        return self.folder.with_name(f".{self.area}-{os.urandom(8).hex()}")

    def open_into(self, sealed: int, path: Path, target: Path) -> None:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            trees.copy_in(sealed, path, descriptor, self.storage)
        finally:
            os.close(descriptor)


class Views:
    """Opens and seals the areas of one keep."""

    def __init__(self, files: Files, state: Path, sealer: Callable[[], Awaitable[Sealer]]) -> None:
        """`sealer` gives what the keep seals with, or raises `SealingError`."""
        self._files = files
        self._state = state
        self._sealer = sealer
        self._views: dict[FileArea, AreaView] = {}

    async def open(self, run: str, mounts: Iterable[Mount]) -> None:
        """Let a run have the areas of its mounts, until `close`. Raises `RefusalError`."""
        wanted: dict[FileArea, tuple[Mount, ...]] = {}
        for mount in mounts:
            if self._files.storage.sealed or mount.area is FileArea.SEALED:
                wanted[mount.area] = (*wanted.get(mount.area, ()), mount)
        try:
            for area, those in wanted.items():
                async with self._files.locks[area]:
                    view = self._views.get(area) or await self._opened(area)
                    view.runs[run] = those
                    if area is FileArea.SEALED:
                        await self._check_bindings(those)
        except BaseException:
            await self._leave(run)
            raise

    async def close(self, run: str, *, keep: bool = True) -> str | None:
        """The run is over: with `keep`, seal what it may have changed. What could not be kept and why, or None."""
        problem = None
        for view in self._of(run):
            if keep and any(mount.writable for mount in view.runs[run]):
                async with self._files.locks[view.area]:
                    problem = await self._seal(view) or problem
        await self._leave(run)
        return problem

    async def _leave(self, run: str) -> None:
        for view in self._of(run):
            async with self._files.locks[view.area]:
                del view.runs[run]
                if not view.runs:
                    del self._views[view.area], self._files.views[view.area]
                    await _remove(view.folder, at_once=not view.tree and not view.changed)

    def _of(self, run: str) -> tuple[AreaView, ...]:
        return tuple(view for view in self._views.values() if run in view.runs)

    async def _opened(self, area: FileArea) -> AreaView:
        parent = plaintext_folder(self._state)
        if parent is None or not parent.is_dir():
            raise RefusalError(
                ErrorCode.SEALING_UNAVAILABLE,
                "this keep has no folder in memory, and what it keeps sealed is in plaintext nowhere else",
                remedy="run without `mounts`, or create a keep with `at_rest` `plain`",
            )
        storage = await self._storage(area)
        source = self._files.stored(area)
        view = AreaView(area, parent / area.value, storage)
        view.folder.mkdir(mode=FOLDER_MODE)
        try:
            if any(source.iterdir()):
                await self._check_room(area)
                view.tree = await asyncio.to_thread(trees.open_tree, source, view.folder, storage)
        except BaseException as error:
            await _remove(view.folder, at_once=False)
            if isinstance(error, OSError):
                detail = f"the files of `{area}` cannot be opened: {error.strerror}"
                raise RefusalError(ErrorCode.SEALING_UNAVAILABLE, detail) from None
            raise
        self._views[area] = self._files.views[area] = view
        return view

    async def _storage(self, area: FileArea) -> Storage:
        if area is not FileArea.SEALED:
            await self._files.storage.unlock()
            return self._files.storage
        return EnvelopeStorage(self._files.root, await self._available(), self._bindings)

    async def _available(self) -> Sealer:
        try:
            return await self._sealer()
        except SealingError as error:
            raise refusal_of(error) from None

    def _bindings(self) -> Iterable[Binding]:
        view = self._views.get(FileArea.SEALED)
        for of_run in () if view is None else reversed(tuple(view.runs.values())):
            for mount in of_run:
                if mount.writable:
                    root = self._files.stored(FileArea.SEALED)
                    yield Binding(root.joinpath(*components(mount.path)), mount.bind)

    async def _check_bindings(self, mounts: Iterable[Mount]) -> None:
        sealer = await self._available()
        for mount in mounts:
            try:
                await asyncio.to_thread(sealer.check, mount.bind)
            except SealingError as error:
                refusal = refusal_of(error)
                raise RefusalError(refusal.code, f"{mount.guest}: {refusal.detail}", field="$.mounts") from None

    async def _check_room(self, area: FileArea) -> None:
        needed = (await self._files.usage_on_disk(area)).size
        taken = (await self._files.usage()).memory
        if needed + taken > self._files.room:
            others = f", beside {taken} of other runs" if taken else ""
            raise RefusalError(
                ErrorCode.LIMIT_EXCEEDED,
                f"the files of `{area}` are {needed} bytes, which a run has in memory{others};"
                f" the keep's `limits.memory` leaves {self._files.room} for them",
                field="$.mounts",
                remedy="mount fewer areas, remove files, or create a keep with more memory",
            )

    async def _seal(self, view: AreaView) -> str | None:
        """Make what the runs have of an area its sealed state; why that failed, or None."""
        try:
            if await _is_unchanged(view):
                return None
            usage = await self._files.usage()
            if usage.size > self._files.limit or usage.entries > MAX_ENTRIES:
                return (
                    f"the files of the keep exceeded {self._files.limit} bytes, the limit `files` of its spec, or"
                    f" {MAX_ENTRIES} files and folders: {_NOT_KEPT}"
                )
            await self._replace(view)
        except OSError as error:
            reason = "disk full" if error.errno in {errno.ENOSPC, errno.EDQUOT} else error.strerror or str(error)
            return f"`{view.area}` cannot be sealed ({reason}): {_NOT_KEPT}"
        except RefusalError as refusal:
            return f"`{view.area}` cannot be sealed ({refusal.detail}): {_NOT_KEPT}"
        return None

    async def _replace(self, view: AreaView) -> None:
        source = self._files.stored(view.area)
        new = next_state(self._files.root, view.area)
        try:
            new.mkdir(mode=FOLDER_MODE)
            tree = await asyncio.to_thread(trees.seal_tree, view.folder, source, new, view.storage, view.tree)
            last = replace_state(self._files.root, view.area)
        except BaseException:
            await _remove(new, at_once=False)
            raise
        view.tree, view.changed = tree, False
        await asyncio.to_thread(_sync, self._files.root)
        await _remove(last, at_once=False)


async def _is_unchanged(view: AreaView) -> bool:
    if view.changed:
        return False
    if not view.tree:
        return trees.is_unchanged(view.folder, view.tree)
    return await asyncio.to_thread(trees.is_unchanged, view.folder, view.tree)


async def _remove(folder: Path, *, at_once: bool) -> None:
    """`at_once` if there can hardly be anything in it."""
    try:
        if at_once:
            exhaust(remove_tree(folder))
        else:
            await asyncio.to_thread(exhaust, remove_tree(folder))
    except FileNotFoundError:
        return
    except OSError as error:
        _log.error("%s cannot be removed: %s", folder.name, error)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
