"""The life of a keep's unit process, from exec to exit."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path

from keep_loader import handover, publication, sandbox
from keep_loader.errors import KeepLoaderError
from keep_loader.lock import lock_state
from keep_loader.notification import ServiceManager, stored_descriptors
from keep_protocol.handover import BROKER_SOCKET
from keep_protocol.machine import MachineStart
from keep_protocol.names import is_machine_instance

HOST_FOLDER = Path("/tmp/wasmkeep")
"""Where the unit binds the deployment's runtime folder, read-only."""
BROKER_FOLDER = Path("/tmp/wasmkeep-net")
"""Where the unit binds the folder with the socket of the keep's network broker, if the keep has one."""


def main() -> int:
    """Run the keep whose instance name is the only argument; returns its exit status."""
    try:
        return _run(instance=sys.argv[1], environment=dict(os.environ))
    except KeepLoaderError as error:
        print(f"keep-loader: {error}", file=sys.stderr, flush=True)
        return 1


def _backend(instance: str) -> Callable[..., int]:
    """What makes a keep of this unit's process. Each imports what the other never needs."""
    if is_machine_instance(instance):
        from keep_loader.backends import qemu

        return qemu.run
    from keep_loader.backends import process

    return process.run


def _run(*, instance: str, environment: dict[str, str]) -> int:
    os.environ.clear()
    service_manager = ServiceManager(environment.get("NOTIFY_SOCKET"))
    invocation = environment["INVOCATION_ID"]
    state = Path(environment["STATE_DIRECTORY"])
    runtime = Path(environment["RUNTIME_DIRECTORY"])
    host = Path(environment.get("WASMKEEP_HOST_FOLDER", HOST_FOLDER))
    broker = Path(environment.get("WASMKEEP_BROKER_FOLDER", BROKER_FOLDER))
    stored = stored_descriptors(environment)

    lock_state(state)
    asked = None if handover.is_stored(stored) else handover.ask(host, instance, invocation)
    # The process becomes the keep's server here, while the manager answers; what comes before the question is as small
    # as it is because this import counts.
    run = _backend(instance)
    received = handover.receive(asked, service_manager) if asked else handover.restore(stored)
    configuration = received.configuration
    sandbox_facts = sandbox.facts((*sandbox.code_folders(), state, runtime, host, broker))
    published = False

    def publish(certificate: str, start: MachineStart | None = None) -> None:
        nonlocal published
        publication.write_keep_file(
            runtime,
            certificate=certificate,
            invocation=invocation,
            sandbox=sandbox_facts,
            start=start,
        )
        if not published:
            published = True
            gc.enable()
            service_manager.ready(f"keep {configuration.id} is serving")

    watchdog = int(environment.get("WATCHDOG_USEC", "0")) / 1_000_000
    status = run(
        configuration=configuration,
        listener=received.listener,
        devices=received.devices,
        state=state,
        host=host,
        broker=broker / BROKER_SOCKET,
        invocation=invocation,
        publish=publish,
        heartbeat=service_manager.heartbeat,
        heartbeat_interval=watchdog / 3 if watchdog else None,
    )
    service_manager.stopping()
    return status
