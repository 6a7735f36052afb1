"""Brings a keep's machine to life: as a template's clone where the host handed one over, from the image otherwise."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from keep_loader.errors import CloneError, MachineError
from keep_loader.machine.launch import Order, files_of_template, launch, path_of
from keep_loader.machine.running import RunningMachine
from keep_loader.machine.template import program_identity
from keep_protocol.guest_control import GuestConfiguration
from keep_protocol.machine import CLONED, MachineStart, StartKind

_MAX_REASON: Final = 400

_logger = logging.getLogger(__name__)


class Publish(Protocol):
    """Takes the keep's certificate (PEM), and how its machine came to life."""

    def __call__(self, certificate: str, start: MachineStart | None) -> None: ...


async def start_machine(
    order: Order,
    guest: GuestConfiguration,
    *,
    publish: Publish,
    heartbeat: Callable[[], None],
    broker: Path | None,
) -> tuple[RunningMachine, bool]:
    """The machine, and whether it has been told its configuration already. Raises `MachineError`."""

    async def launched(order: Order, start: MachineStart | None) -> RunningMachine:
        machine = await launch(order)
        return RunningMachine(machine, publish=partial(publish, start=start), heartbeat=heartbeat, broker=broker)

    why_cold = order.machine.why_cold
    if (template := files_of_template(order.files)) is not None:
        try:
            _check_program(order)
            machine = await launched(order, MachineStart(StartKind.CLONE))
            await _wake(machine, template[1], guest)
        except CloneError as error:
            why_cold = f"clone-failed: {error}"[:_MAX_REASON]
            _logger.warning("%s; the keep starts from the image", why_cold)
        else:
            return machine, True
    start = MachineStart(StartKind.COLD, why_cold) if order.spec.backend in CLONED else None
    return await launched(order.from_image(), start), False


async def _wake(machine: RunningMachine, state: int, guest: GuestConfiguration) -> None:
    try:
        # Opened anew: the position in a descriptor is shared by all who have got it.
        with open(path_of(state), "rb") as file:
            await machine.wake(file.fileno(), guest)
    except BaseException as error:
        words = machine.last_words()
        await machine.close()
        if isinstance(error, CloneError) and words:
            raise CloneError(f"{error}; {words[-1]}") from None
        raise


def _check_program(order: Order) -> None:
    """The host has checked it too, perhaps long before this restart. Raises `CloneError`."""
    try:
        same = program_identity(Path(order.machine.qemu)) == order.machine.program
    except OSError as error:
        raise MachineError(f"QEMU cannot be started: {order.machine.qemu}: {error.strerror}") from None
    if not same:
        raise CloneError("QEMU is not the one that made the template: stop and start the keep for another template")
