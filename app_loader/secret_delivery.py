"""What a run gets of the keep's secrets: variables of its environment, and read-only folders in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from app_loader.runner_messages import GuestMount
from app_loader.secret_files import SecretFiles
from app_loader.secret_store import SecretStore
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.secret_api import SecretUse

if TYPE_CHECKING:
    # Imported with the first run.
    from app_loader.run_plan import RunPlan


class Delivery(NamedTuple):
    """One run's secrets. `folders` are descriptors, one a mount; whoever starts the run closes them."""

    environment: tuple[tuple[str, str], ...] = ()
    mounts: tuple[GuestMount, ...] = ()
    folders: tuple[int, ...] = ()


class SecretDelivery:
    """Gives secrets to runs, and takes the files away again."""

    def __init__(self, store: SecretStore, state: Path) -> None:
        self._store = store
        self._files = SecretFiles(state)
        self._with_files: set[str] = set()

    def clear(self) -> None:
        """Remove the files of runs of an earlier life."""
        self._files.clear()

    def check(self, plan: RunPlan) -> None:
        """Raise `RefusalError` if the run cannot have the secrets that it names."""
        _check_names(plan)
        for use in plan.secrets:
            value = self._store.get(use.name)
            if use.env is not None:
                _variable(use, value)
        if any(use.file is not None for use in plan.secrets):
            self._files.require()

    def deliver(self, run: str, plan: RunPlan) -> Delivery:
        """The secrets as they are now. Raises `RefusalError`."""
        if not plan.secrets:
            return Delivery()
        self.check(plan)
        environment = tuple(
            (use.env, _variable(use, self._store.get(use.name))) for use in plan.secrets if use.env is not None
        )
        folders: dict[str, dict[str, bytearray]] = {}
        for use, folder, name in _placed(plan.secrets):
            folders.setdefault(folder, {})[name] = self._store.get(use.name)
        if not folders:
            return Delivery(environment)
        descriptors = self._files.make(run, folders)
        self._with_files.add(run)
        return Delivery(environment, tuple(GuestMount(folder, writable=False) for folder in folders), descriptors)

    def withdraw(self, run: str) -> None:
        """The run is over. Nothing happens if it had no secrets as files."""
        if run in self._with_files:
            self._with_files.remove(run)
            self._files.remove(run)


def _placed(uses: Iterable[SecretUse]) -> Iterator[tuple[SecretUse, str, str]]:
    """The secrets that are files, each with its folder and its name in it."""
    for use in uses:
        if use.file is not None:
            folder, _, name = use.file.rpartition("/")
            yield use, folder or "/", name


def _check_names(plan: RunPlan) -> None:
    variables = [use.env for use in plan.secrets if use.env is not None]
    if len(set(variables)) != len(variables) or any(name in plan.env for name in variables):
        raise _invalid("an environment variable is given twice")
    files = [use.file for use in plan.secrets if use.file is not None]
    if len(set(files)) != len(files):
        raise _invalid("a `file` is given twice")
    folders = {folder for _, folder, _ in _placed(plan.secrets)}
    if shared := sorted(folders & {mount.guest.rstrip("/") or "/" for mount in plan.mounts}):
        raise _invalid(f"{shared[0]!r} is a mount of the run: secrets need a folder of their own")


def _variable(use: SecretUse, value: bytearray) -> str:
    if 0 in value:
        raise _invalid(f"the secret {use.name!r} has a NUL byte in it, so it can only be a `file`")
    try:
        return value.decode()
    except UnicodeDecodeError:
        # Not chained and without its reason: the error holds the value.
        pass
    raise _invalid(f"the secret {use.name!r} is not UTF-8, so it can only be a `file`")


def _invalid(detail: str) -> RefusalError:
    return RefusalError(ErrorCode.FIELD_INVALID, detail, field="$.secrets")
