"""What a starting keep is to get from its host: its listening socket, and what the host tells it."""

from __future__ import annotations

import base64
import socket
from collections.abc import Callable

from keep_manager.config import Settings
from keep_manager.devices import free_counter, open_devices
from keep_manager.endpoints import split_endpoint
from keep_manager.entry import KeepEntry
from keep_manager.handover import Offer
from keep_manager.machines.machines import Machines
from keep_manager.sealing_keys import SealingKeys
from keep_manager.trust import Trust
from keep_protocol.evidence import EvidenceKind
from keep_protocol.handover import Configuration
from keep_protocol.spec import KeepSpec, Limits


class Offers:
    """Makes what keeps are offered. `trust` gives the host's own CAs."""

    def __init__(self, settings: Settings, keys: SealingKeys, trust: Callable[[], Trust], machines: Machines) -> None:
        self._settings = settings
        self._keys = keys
        self._trust = trust
        self._machines = machines

    async def make(self, entry: KeepEntry, listener: socket.socket) -> Offer:
        """The offer for one keep.

        Raises `SealingKeyError`, `DeviceError` or `MachineUnavailableError`; `listener` is closed then.
        """
        address, _ = split_endpoint(entry.row.endpoint)
        machine = None
        try:
            sealing_keys = self._keys.of(entry.id)
            if entry.spec.backend.is_machine:
                machine, devices = await self._machines.equip(entry.spec)
            else:
                devices = open_devices(entry.spec.evidence, self._settings.tpm)
        except BaseException:
            listener.close()
            raise
        configuration = Configuration(
            id=entry.id,
            deployment=self._settings.deployment,
            spec=entry.row.spec.decode(),
            domain=self._settings.domain,
            names=tuple(dict.fromkeys((address, *self._settings.hosts))),
            client_ca=base64.b64encode(self._trust().client_ca).decode(),
            server_ca=base64.b64encode(self._trust().server_ca).decode(),
            sealing_keys=sealing_keys,
            machine=machine,
        )
        return Offer(listener, configuration, devices)

    def unit_limits(self, spec: KeepSpec) -> Limits:
        """What a keep's unit may use."""
        return self._machines.unit_limits(spec) if spec.backend.is_machine else spec.limits

    def forget(self, entry: KeepEntry) -> None:
        """Nothing will be offered to this keep any more. Raises `SealingKeyError`."""
        self._keys.remove(entry.id)
        if entry.spec.evidence is EvidenceKind.TPM and not entry.spec.backend.is_machine:
            free_counter(entry.id, self._settings.tpm)
