"""What a keep consists of, as its routes see it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from app_loader.clock import now
from app_loader.events import Events
from app_loader.files import Files
from app_loader.sealer_source import SealerSource
from app_loader.secret_store import SecretStore
from keep_protocol.handover import Configuration
from keep_protocol.spec import KeepSpec, spec_digest

if TYPE_CHECKING:
    # Only named here, so that the routes can be described without what executes guests.
    from app_loader.calls import Calls
    from app_loader.configuration_store import ConfigurationStore
    from app_loader.evidence import EvidenceMaker
    from app_loader.http_port import HttpPort
    from app_loader.http_service import HttpService
    from app_loader.network import Network
    from app_loader.runs import Runs
    from app_loader.secret_sources import SecretSources
    from app_loader.workload import Workload


class Keep:
    """One keep: what it was told, what it has loaded, what it runs, what it stores."""

    def __init__(
        self,
        configuration: Configuration,
        spec: KeepSpec,
        *,
        invocation: str,
        files: Files,
        workload: Workload,
        runs: Runs,
        calls: Calls,
        http: HttpService,
        workload_configuration: ConfigurationStore,
        evidence: EvidenceMaker | None = None,
        spki: bytes = b"",
        secrets: SecretStore | None = None,
        state: Path | None = None,
        broker: Path | None = None,
        sealer: SealerSource | None = None,
        make_http_port: Callable[[Keep], HttpPort] | None = None,
        events: Events | None = None,
    ) -> None:
        self.id = configuration.id
        self.spec = spec
        self.spec_digest = spec_digest(configuration.spec.encode())
        self.invocation = invocation
        self.started_at = now()
        self.files = files
        self.workload = workload
        self.runs = runs
        self.calls = calls
        self.http = http
        self.workload_configuration = workload_configuration
        self.evidence = evidence
        """What proves the keep; None in keeps that are only pinned."""
        self.spki = spki
        self.secrets = secrets or SecretStore()
        self.events = events or Events()
        self.secret_sources: SecretSources | None = None
        """What fetches secrets; None in keeps whose spec names none."""
        self.sealer = sealer or SealerSource(configuration, spec, state, evidence)
        self.attesting = self.sealer.hardware
        self._broker = broker
        self._network: Network | None = None
        self._make_http_port = make_http_port
        self.http_port: HttpPort | None = None
        """The workload's own port; made when a configuration first names one."""

    async def follow_workload(self) -> None:
        """After every change of workload or configuration: what depends on both becomes what they say."""
        http = self.workload_configuration.http
        if self.http_port is None and http is not None and http.port is not None and self._make_http_port is not None:
            self.http_port = self._make_http_port(self)
        if self.http_port is not None:
            await self.http_port.follow()

    def network(self) -> Network:
        """The keep's way to the network, made when it is first wanted: most keeps have none."""
        if self._network is None:
            from app_loader.network import Network

            self._network = Network(
                self.spec.network,
                self.spec_digest,
                self._broker,
                self.events,
                relayed=self.spec.backend.is_machine,
            )
        return self._network
