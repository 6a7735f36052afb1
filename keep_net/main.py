"""The life of a broker's process: reads what it may do, serves, tells the service manager, ends on SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Final

from keep_loader.notification import ServiceManager
from keep_net.broker import Broker, open_socket
from keep_net.configuration import read_configuration
from keep_net.errors import ConfigurationError
from keep_net.resolution import SystemResolver
from keep_protocol.broker import CONFIGURATION_NAME
from keep_protocol.handover import BROKER_SOCKET

FOLDER: Final = Path("/tmp/wasmkeep-net")
"""Where the unit binds the folder that the broker shares with its keep and the manager."""

_EX_CONFIG: Final = 78
"""sysexits(3). The unit is not started again with it: what is wrong will not change by itself."""


def main() -> int:
    """Be the broker of the instance that is the only argument; returns the exit status."""
    environment = dict(os.environ)
    os.environ.clear()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    folder = Path(environment.get("WASMKEEP_BROKER_FOLDER", FOLDER))
    try:
        allowed = read_configuration(folder / CONFIGURATION_NAME)
    except ConfigurationError as error:
        print(f"keep-net: {error}", file=sys.stderr, flush=True)
        return _EX_CONFIG
    resolver = SystemResolver()
    watchdog = int(environment.get("WATCHDOG_USEC", "0")) / 1_000_000
    try:
        asyncio.run(
            _serve(
                Broker(allowed, resolver),
                folder / BROKER_SOCKET,
                ServiceManager(environment.get("NOTIFY_SOCKET")),
                watchdog / 3 if watchdog else None,
            )
        )
    finally:
        resolver.close()
    # Without waiting for threads in which a name server is silent.
    os._exit(0)


async def _serve(broker: Broker, path: Path, service_manager: ServiceManager, heartbeat: float | None) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    with open_socket(path) as listener:
        tasks = [asyncio.create_task(broker.accept(listener)), asyncio.create_task(stopped.wait())]
        if heartbeat is not None:
            tasks.append(asyncio.create_task(_beat(service_manager, heartbeat)))
        service_manager.ready("serving its keep")
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        service_manager.stopping()
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for task in done:
            task.result()
    path.unlink(missing_ok=True)


async def _beat(service_manager: ServiceManager, interval: float) -> None:
    while True:
        service_manager.heartbeat()
        await asyncio.sleep(interval)
