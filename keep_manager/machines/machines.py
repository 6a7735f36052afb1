"""Virtual machines for the rest of the manager: what is available, and what a starting keep of that kind is given."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from keep_image.manifest import Manifest
from keep_manager.errors import GuestImageError, MachineUnavailableError, TemplateError
from keep_manager.machines.checks import kernel_vsock, machine_backends, program_vsock
from keep_manager.machines.settings import MachineSettings
from keep_manager.machines.survey import Survey, Surveyor
from keep_protocol.machine import (
    CLONED,
    FIRMWARE_FD,
    TEMPLATE_MEMORY_FD,
    TEMPLATE_STATE_FD,
    WITH_DISK,
    Machine,
    guest_memory,
    guest_processors,
)
from keep_protocol.manager_api import BackendInfo
from keep_protocol.spec import KeepSpec, Limits
from keep_protocol.states import Backend, GuestChannel

_logger = logging.getLogger(__name__)

_FRESH: Final = 2.0
"""Seconds for which a look is good enough for the next who asks."""

_TASKS: Final = 96
"""Threads and processes of a machine beside its processors: QEMU's pool of 64, the TPM, the keep-loader."""


class Machines:
    """Looks at the host in a thread: a QEMU or a KVM that hangs must not hang the manager."""

    def __init__(self, settings: MachineSettings) -> None:
        self._settings = settings
        self._surveyor = Surveyor(settings)
        self._survey: Survey | None = None
        self._looked = 0.0
        self._looking = asyncio.Lock()

    async def backends(self) -> tuple[BackendInfo, ...]:
        """Every kind of machine with its checks."""
        return machine_backends(await self._look())

    async def equip(self, spec: KeepSpec) -> tuple[Machine, dict[str, int]]:
        """How the machine of a keep is started, and descriptors for it, which the caller closes.

        Raises `MachineUnavailableError` when the image or the firmware is not there any more.
        """
        survey = await self._look()
        return await asyncio.to_thread(self._equip, spec, survey)

    def unit_limits(self, spec: KeepSpec) -> Limits:
        """What the unit of a machine may use, so that the machine may use what the spec grants."""
        limits = spec.limits
        return replace(
            limits,
            memory=limits.memory + self._settings.overhead,
            tasks=max(limits.tasks, guest_processors(limits) + _TASKS),
        )

    async def _look(self) -> Survey:
        async with self._looking:
            if self._survey is None or time.monotonic() - self._looked > _FRESH:
                self._survey = await asyncio.to_thread(self._surveyor.look)
                self._looked = time.monotonic()
            return self._survey

    def _equip(self, spec: KeepSpec, survey: Survey) -> tuple[Machine, dict[str, int]]:
        with contextlib.ExitStack() as stack:
            try:
                image, files = self._surveyor.images.open()
            except GuestImageError as error:
                raise MachineUnavailableError(str(error)) from None
            for descriptor in files.values():
                stack.callback(os.close, descriptor)
            if (firmware := self._firmware(spec.backend)) is not None:
                try:
                    files[FIRMWARE_FD] = os.open(firmware, os.O_RDONLY | os.O_CLOEXEC)
                except OSError as error:
                    raise MachineUnavailableError(f"the firmware {firmware}: {error.strerror}") from None
            stack.pop_all()
        cloned, why_cold = self._template(spec, survey, image.manifest, files)
        # A template has no vsock, whose address no two machines may share.
        by_kernel = kernel_vsock(survey) and cloned is None
        encryption = survey.processor.encryption
        by_program = program_vsock(survey) and not kernel_vsock(survey) and spec.backend in WITH_DISK and cloned is None
        machine = Machine(
            qemu=str(self._settings.qemu),
            accelerator=survey.accelerator,
            command_line=image.manifest.command_line,
            channel=GuestChannel.VSOCK if by_kernel or by_program else GuestChannel.SERIAL,
            vsock_device=str(self._settings.vhost_device_vsock) if by_program else "",
            mke2fs=str(self._settings.mke2fs) if spec.backend in WITH_DISK else "",
            swtpm=str(self._settings.swtpm) if spec.backend is Backend.QEMU_VTPM else "",
            encryption_bit=encryption.encryption_bit if spec.backend is Backend.SNP else 0,
            lost_address_bits=encryption.lost_address_bits if spec.backend is Backend.SNP else 0,
            quote_socket=str(self._settings.quote_socket) if spec.backend is Backend.TDX else "",
            program="" if cloned is None else cloned,
            why_cold=why_cold,
        )
        return machine, files

    def _template(
        self, spec: KeepSpec, survey: Survey, image: Manifest, files: dict[str, int]
    ) -> tuple[str | None, str]:
        """The QEMU of the template whose descriptors `files` has now, or why a machine cannot be a clone."""
        if spec.backend not in CLONED:
            return None, ""
        templates, limits = self._surveyor.templates, spec.limits
        try:
            key = templates.key(image, survey.accelerator, guest_memory(limits), guest_processors(limits))
            template = templates.open(key)
        except TemplateError as error:
            _logger.info("a machine boots from the image: %s", error)
            return None, str(error)
        files[TEMPLATE_MEMORY_FD], files[TEMPLATE_STATE_FD] = template.memory, template.state
        return template.program, ""

    def _firmware(self, backend: Backend) -> Path | None:
        return {
            Backend.QEMU_VTPM: self._settings.firmware,
            Backend.SNP: self._settings.snp_firmware,
            Backend.TDX: self._settings.tdx_firmware,
        }.get(backend)
