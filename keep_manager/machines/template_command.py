"""`keep-manager image template`: makes the template that machines of one shape are cloned from, or removes all."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

from keep_loader.errors import MachineError
from keep_loader.machine.template import TemplateOrder, make_template
from keep_manager.errors import TemplateError
from keep_manager.machines.checks import failed_check, machine_backends
from keep_manager.machines.settings import MachineSettings
from keep_manager.machines.survey import Surveyor
from keep_protocol.machine import CLONED, MIN_GUEST_MEMORY
from keep_protocol.spec import MiB


def make(settings: MachineSettings, memory: int, processors: int) -> Path:
    """Boot a machine with so many bytes and freeze it; the folder of its template.

    Raises `TemplateError` or `GuestImageError`.
    """
    if memory < MIN_GUEST_MEMORY or memory % MiB:
        raise TemplateError(f"{memory} bytes: a machine has whole MiB, and at least {MIN_GUEST_MEMORY // MiB}")
    surveyor = Surveyor(settings)
    survey = surveyor.look()
    for info in machine_backends(survey):
        if info.name in CLONED and (failed := failed_check(info)) is not None:
            raise TemplateError(f"{info.name} does not work on this host: {failed.message}")
    with contextlib.ExitStack() as stack:
        image, files = surveyor.images.open()
        for descriptor in files.values():
            stack.callback(os.close, descriptor)
        key = surveyor.templates.key(image.manifest, survey.accelerator, memory // MiB, processors)
        order = TemplateOrder(
            qemu=str(settings.qemu),
            accelerator=survey.accelerator,
            command_line=image.manifest.command_line,
            memory=key.memory,
            processors=processors,
            files=files,
        )
        try:
            frozen = asyncio.run(make_template(order))
        except MachineError as error:
            raise TemplateError(str(error)) from None
        for descriptor in (frozen.memory, frozen.state):
            stack.callback(os.close, descriptor)
        return surveyor.templates.write(key, frozen)


def remove(settings: MachineSettings) -> list[str]:
    """Remove every template of the image; their names. Raises `TemplateError`."""
    return Surveyor(settings).templates.remove()
