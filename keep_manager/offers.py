"""What a starting keep is to get from its host: its listening socket, and what the host tells it."""

from __future__ import annotations

import socket

from keep_manager.config import Settings
from keep_manager.devices import open_devices
from keep_manager.endpoints import split_endpoint
from keep_manager.entry import KeepEntry
from keep_manager.errors import DeviceError, SealingKeyError
from keep_manager.handover import Offer
from keep_manager.sealing_keys import SealingKeys
from keep_protocol.handover import Configuration


def make_offer(entry: KeepEntry, listener: socket.socket, settings: Settings, keys: SealingKeys) -> Offer:
    """The offer for one keep. Raises `SealingKeyError` or `DeviceError`; `listener` is closed then."""
    address, _ = split_endpoint(entry.row.endpoint)
    try:
        sealing_keys = keys.of(entry.id)
        devices = open_devices(entry.spec.evidence, settings.tpm)
    except (SealingKeyError, DeviceError):
        listener.close()
        raise
    configuration = Configuration(
        id=entry.id,
        deployment=settings.deployment,
        spec=entry.row.spec.decode(),
        domain=settings.domain,
        names=tuple(dict.fromkeys((address, *settings.hosts))),
        sealing_keys=sealing_keys,
    )
    return Offer(listener, configuration, devices)
