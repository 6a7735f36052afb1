"""`keep-manager down`: ends the manager, its keeps and the systemd that was started for them."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Iterator

import msgspec

from keep_manager.config import Home, Settings
from keep_manager.errors import ManagerError
from keep_manager.server import home_lock
from keep_manager.supervisor.broker_folder import remove_broker_folders
from keep_manager.supervisor.choose import choose_supervisor
from keep_protocol.manager_api import ManagerFile

DEADLINE = 10.0
_POLL = 0.05


def take_down(home: Home, settings: Settings) -> Iterator[str]:
    """End everything of a home that runs, and say what was done. Raises `ManagerError`.

    Records stay: the next `serve` brings the keeps that are meant to run back, as after a reboot.
    """
    if end_manager(home):
        yield "manager ended"
    try:
        known = msgspec.json.decode(home.manager_file.read_bytes(), type=ManagerFile)
    except FileNotFoundError:
        yield "nothing else runs"
        return
    except msgspec.DecodeError as error:
        raise ManagerError(f"{home.manager_file} is damaged: {error}; start the manager once more") from None
    with home_lock(home):
        ended = asyncio.run(_end_keeps(home, settings, known.supervisor))
        home.manager_file.unlink(missing_ok=True)
    yield f"{ended} keeps ended, supervisor {known.supervisor} let go"


def end_manager(home: Home) -> bool:
    """SIGTERM to whoever holds the home's lock, and wait until it is free; False when nobody does."""
    try:
        descriptor = os.open(home.lock_file, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        if _is_free(descriptor):
            return False
        pid = int(os.pread(descriptor, 32, 0) or b"0")
        # A descriptor first, and the lock once more: then the pid is the holder's and no later process's.
        with contextlib.suppress(ProcessLookupError):
            process = os.pidfd_open(pid)
            try:
                if not _is_free(descriptor):
                    signal.pidfd_send_signal(process, signal.SIGTERM)
            finally:
                os.close(process)
        end = time.monotonic() + DEADLINE
        while not _is_free(descriptor):
            if time.monotonic() > end:
                raise ManagerError(f"the manager, process {pid}, did not end in {DEADLINE:.0f} s: look at its log")
            time.sleep(_POLL)
        return True
    finally:
        os.close(descriptor)


def _is_free(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return True


async def _end_keeps(home: Home, settings: Settings, kind: str) -> int:
    supervisor = await choose_supervisor(kind, home.path, settings.deployment)
    try:
        units = [name for name in await supervisor.list() if name.startswith(f"{settings.deployment}-")]
        await asyncio.gather(*(supervisor.stop(name) for name in units))
        brokers = [name for name in await supervisor.brokers() if name.startswith(f"{settings.deployment}-")]
        await asyncio.gather(*(supervisor.stop_broker(name) for name in brokers))
        runtime = supervisor.paths.runtime
        await supervisor.shut_down()
    finally:
        await supervisor.close()
    remove_broker_folders(runtime, settings.deployment)
    hosts = runtime / "hosts"
    if hosts.is_dir():
        for link in hosts.glob(f"{settings.deployment}-*"):
            link.unlink(missing_ok=True)
    shared = runtime / "deployments" / settings.deployment
    if shared.is_dir():
        for file in shared.iterdir():
            file.unlink()
        shared.rmdir()
    return len(units)
