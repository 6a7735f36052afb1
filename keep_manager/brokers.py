"""The network brokers of keeps: started before their keep, stopped after it, where a spec names any network."""

from __future__ import annotations

import logging

import msgspec

from keep_manager.config import Settings
from keep_manager.entry import KeepEntry
from keep_manager.errors import BrokerStartError, UnitStartError
from keep_manager.keep_log import said_last
from keep_manager.supervisor.interface import ActiveState, Supervisor
from keep_protocol.broker import BrokerConfiguration
from keep_protocol.names import instance_name

_THERE = frozenset({ActiveState.ACTIVE, ActiveState.ACTIVATING})

_logger = logging.getLogger(__name__)


class Brokers:
    """Every method raises `SupervisorUnavailableError` when the supervisor does not answer."""

    def __init__(self, supervisor: Supervisor, settings: Settings) -> None:
        self._supervisor = supervisor
        self._settings = settings

    async def start(self, entry: KeepEntry) -> None:
        """Start a keep's broker anew, if it is to have one. Raises `BrokerStartError`."""
        if not entry.spec.network.names_anything:
            return
        instance = self._instance(entry)
        configuration = BrokerConfiguration(
            version=1,
            spec=entry.row.spec.decode(),
            spec_digest=entry.spec_digest,
            listen_address=self._settings.endpoint_address,
        )
        try:
            status = await self._supervisor.start_broker(instance, msgspec.json.encode(configuration))
        except UnitStartError as error:
            entry.broker = ActiveState.FAILED
            said = said_last(self._supervisor.log_path(instance))
            raise BrokerStartError(f"{error.result}: {error}{said}") from None
        entry.broker = status.active

    async def ensure(self, entry: KeepEntry) -> None:
        """Start the broker of a living keep if there is none; a keep that gets none lives on without."""
        if not entry.spec.network.names_anything or entry.broker in _THERE:
            return
        found = (await self._supervisor.brokers()).get(self._instance(entry))
        if found is not None and found.active in _THERE:
            entry.broker = found.active
            return
        try:
            await self.start(entry)
        except BrokerStartError as error:
            _logger.error("keep %s has no network: %s", entry.id, error)

    async def stop(self, entry: KeepEntry) -> None:
        """Stop a keep's broker, if it may have one."""
        if entry.spec.network.names_anything:
            await self._supervisor.stop_broker(self._instance(entry))
            entry.broker = None

    def _instance(self, entry: KeepEntry) -> str:
        return instance_name(self._settings.deployment, entry.id, machine=entry.spec.backend.is_machine)
