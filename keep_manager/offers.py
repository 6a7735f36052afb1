"""What a starting keep is to get from its host: its listening socket, and what the host tells it."""

from __future__ import annotations

import base64
import socket
from collections.abc import Callable

from keep_manager.config import Settings
from keep_manager.devices import free_counter, open_devices
from keep_manager.endpoints import split_endpoint
from keep_manager.entry import KeepEntry
from keep_manager.errors import DeviceError, SealingKeyError
from keep_manager.handover import Offer
from keep_manager.sealing_keys import SealingKeys
from keep_manager.trust import Trust
from keep_protocol.evidence import EvidenceKind
from keep_protocol.handover import Configuration


class Offers:
    """Makes what keeps are offered. `trust` gives the host's own CAs."""

    def __init__(self, settings: Settings, keys: SealingKeys, trust: Callable[[], Trust]) -> None:
        self._settings = settings
        self._keys = keys
        self._trust = trust

    def make(self, entry: KeepEntry, listener: socket.socket) -> Offer:
        """The offer for one keep. Raises `SealingKeyError` or `DeviceError`; `listener` is closed then."""
        address, _ = split_endpoint(entry.row.endpoint)
        try:
            sealing_keys = self._keys.of(entry.id)
            devices = open_devices(entry.spec.evidence, self._settings.tpm)
        except (SealingKeyError, DeviceError):
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
        )
        return Offer(listener, configuration, devices)

    def forget(self, entry: KeepEntry) -> None:
        """Nothing will be offered to this keep any more. Raises `SealingKeyError`."""
        self._keys.remove(entry.id)
        if entry.spec.evidence is EvidenceKind.TPM:
            free_counter(entry.id, self._settings.tpm)
