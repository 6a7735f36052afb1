"""A keep's server process, from its configuration to its end; `keep_loader` calls `run`."""

from __future__ import annotations

import asyncio
import binascii
import logging
import signal
import socket
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from app_loader.area_states import prepare_areas
from app_loader.at_rest.sealed_storage import SealedStorage
from app_loader.calls import Calls
from app_loader.configuration_store import ConfigurationStore
from app_loader.dispatch import Dispatcher
from app_loader.errors import AppLoaderError, RunnerDiedError
from app_loader.events import Events
from app_loader.files import Files
from app_loader.http_service import HttpService
from app_loader.identity import Identity
from app_loader.keep import Keep
from app_loader.principals import Principals
from app_loader.renewal import renew_when_due
from app_loader.revocation import CRL_FILE, Revocations
from app_loader.runner import Runner
from app_loader.runs import Runs
from app_loader.sealer_source import SealerSource
from app_loader.secret_store import SecretStore
from app_loader.server import Server
from app_loader.storage import PLAIN
from app_loader.tls import Trust
from app_loader.workload import Workload
from keep_protocol.errors import RefusalError
from keep_protocol.handover import Configuration
from keep_protocol.spec import KeepSpec, decode_spec, spec_digest
from keep_protocol.states import AtRest

if TYPE_CHECKING:
    from app_loader.evidence import EvidenceMaker
    from app_loader.http_port import HttpPort
    from app_loader.run_sockets import SocketOpener
    from app_loader.secret_sources import SecretSources
    from app_loader.tls_relay import TlsRelay
    from app_loader.workload_tls import WorkloadTls

_GRACE: Final = 2.0
"""Seconds that responses get to end after SIGTERM, and once more when all runs are killed."""

_logger = logging.getLogger(__name__)


def run(
    *,
    configuration: Configuration,
    listener: socket.socket,
    devices: Mapping[str, int],
    state: Path,
    host: Path,
    broker: Path,
    invocation: str,
    publish: Callable[[str], None],
    heartbeat: Callable[[], None],
    heartbeat_interval: float | None,
    rehearsed: bool = False,
) -> int:
    """Serve the keep until SIGTERM; the process's exit status.

    `devices` are descriptors of the hand-over by name. `host` is the folder with the host's revocation lists, `broker`
    the socket of its network broker, which is there if the spec names any network. `publish`
    gets the certificate (PEM) when the keep can be reached, and every renewed one. `heartbeat` is called every
    `heartbeat_interval` seconds. `rehearsed`: this process was forked from one that has used what all keeps use.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    spec = decode_spec(configuration.spec.encode())
    own = (configuration.client_ca, configuration.server_ca) if spec.backend.is_measured else ()
    distrusted = [binascii.a2b_base64(ca) for ca in own]
    principals = Principals(spec.principals, Revocations(host / CRL_FILE), distrusted=distrusted)
    with asyncio.Runner() as event_loop:
        # What is used for the first time after the fork, server and runner have twice. So all is used once before,
        # with a key that is thrown away.
        event_loop.get_loop()
        if not rehearsed:
            Trust(Identity(configuration.id, configuration.domain, configuration.names), principals)
        # Before the runner makes areas that are missing: one may only wait to be put into its place.
        prepare_areas(state / "files")
        # Before there is the key: what forks now, and all runs after it, never have it in memory.
        runner = Runner.fork(state)
        evidence = _evidence(configuration, spec, devices)
        identity = Identity(
            configuration.id,
            configuration.domain,
            configuration.names,
            evidence=None if evidence is None else evidence.collection,
        )
        service = _Service(configuration, spec, state, invocation, runner, identity, principals, evidence, broker)
        return event_loop.run(service.run(listener, publish, heartbeat, heartbeat_interval))


def _evidence(configuration: Configuration, spec: KeepSpec, devices: Mapping[str, int]) -> EvidenceMaker | None:
    if spec.evidence is None:
        return None
    # What most keeps never need is not imported by them.
    from app_loader.attesters.selection import find_attester
    from app_loader.evidence import EvidenceMaker

    return EvidenceMaker(
        find_attester(spec.evidence, devices),
        keep=configuration.id,
        backend=spec.backend.value,
        spec_sha256=bytes.fromhex(spec_digest(configuration.spec.encode())),
    )


def _secret_sources(keep: Keep, evidence: EvidenceMaker | None) -> SecretSources | None:
    if not keep.spec.secrets or evidence is None:
        return None
    from app_loader.key_release.fetching import Fetcher
    from app_loader.key_release.proof import Proof
    from app_loader.secret_sources import SecretSources

    def claims() -> bytes:
        digest = keep.workload.summary.digest
        return evidence.claims(
            keep.spki,
            workload_sha256=None if digest is None else bytes.fromhex(digest),
            configuration_sha256=keep.workload_configuration.digest,
        )

    fetcher = Fetcher(Proof(evidence.attester, claims, keep.attesting), keep.network(), keep.secrets)
    return SecretSources(keep.spec.secrets, keep.secrets, fetcher.fetch, record=keep.events.record)


def _socket_opener(keep: Keep, state: Path, tls: Callable[[], WorkloadTls]) -> SocketOpener:
    from app_loader.run_sockets import SocketOpener

    return SocketOpener(keep.network, state / "workload", tls)


class _Service:
    """The parts of a keep that live in one event loop."""

    def __init__(
        self,
        configuration: Configuration,
        spec: KeepSpec,
        state: Path,
        invocation: str,
        runner: Runner,
        identity: Identity,
        principals: Principals,
        evidence: EvidenceMaker | None,
        broker: Path,
    ) -> None:
        self._runner = runner
        self._identity = identity
        self._principals = principals
        sealer = SealerSource(configuration, spec, state, evidence)
        storage = PLAIN if spec.at_rest is AtRest.PLAIN else SealedStorage(state, sealer.find, sealer.hardware)
        files = Files(state / "files", spec.limits.files, storage, memory=spec.limits.memory)
        self._workload_configuration = ConfigurationStore(state, spec, storage)
        features = self._workload_configuration.features
        self._workload = Workload(state, runner, spec.limits, files=files, storage=storage, features=features)
        self._secrets = SecretStore()
        events = Events()
        self._runs = Runs(
            state,
            runner,
            self._workload,
            spec,
            secrets=self._secrets,
            configuration=self._workload_configuration,
            files=files,
            sealer=sealer.get,
            sockets=lambda: _socket_opener(self._keep, state, self._tls_of_workload),
            events=events,
        )
        self._relay: TlsRelay | None = None
        """Of the workload's TLS; most keeps have none."""
        self._calls = Calls(runner, self._workload, spec.limits, events=events)
        self._http = HttpService(runner, self._workload, spec.limits, events=events)
        keep = self._keep = Keep(
            configuration,
            spec,
            invocation=invocation,
            files=files,
            workload=self._workload,
            runs=self._runs,
            calls=self._calls,
            http=self._http,
            workload_configuration=self._workload_configuration,
            evidence=evidence,
            spki=identity.spki,
            secrets=self._secrets,
            state=state,
            broker=broker,
            sealer=sealer,
            make_http_port=self._http_port,
            events=events,
        )
        self._sources = keep.secret_sources = _secret_sources(keep, evidence)
        self._server = Server(Dispatcher(keep), Trust(identity, principals), principals)

    def _tls_of_workload(self) -> WorkloadTls:
        # Here, so that keeps whose workloads do no TLS do not pay for it.
        from app_loader.tls_relay import TlsRelay
        from app_loader.workload_tls import WorkloadTls

        if self._relay is None:
            self._relay = TlsRelay()
        return WorkloadTls(self._identity, self._secrets, self._relay)

    def _http_port(self, keep: Keep) -> HttpPort:
        # Here, so that keeps without such a port do not pay for it.
        from app_loader.http_port import HttpPort

        return HttpPort(keep, self._identity, self._principals)

    async def _close_http_port(self) -> None:
        if self._keep.http_port is not None:
            await self._keep.http_port.close()

    def _close_relay(self) -> None:
        if self._relay is not None:
            self._relay.close()

    async def run(
        self,
        listener: socket.socket,
        publish: Callable[[str], None],
        heartbeat: Callable[[], None],
        heartbeat_interval: float | None,
    ) -> int:
        terminated = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminated.set)
        async with AsyncExitStack() as stack:
            stack.callback(self._secrets.close)
            stack.callback(self._close_relay)
            await self._runner.attach()
            stack.push_async_callback(self._runner.close)
            self._workload.restore()
            self._workload_configuration.restore()
            self._runs.restore()
            stack.push_async_callback(self._server.close)
            stack.push_async_callback(self._close_http_port)
            self._server.start(listener)
            publish(self._identity.certificate)
            if self._sources is not None:
                stack.push_async_callback(self._sources.close)
                self._sources.start()
            tasks = [
                asyncio.create_task(self._warm_up()),
                asyncio.create_task(self._keep.follow_workload()),
                asyncio.create_task(renew_when_due(self._identity, self._keep.attesting, publish)),
            ]
            if heartbeat_interval is not None:
                tasks.append(asyncio.create_task(_beat(heartbeat, heartbeat_interval)))
            for task in tasks:
                stack.push_async_callback(_cancel, task)
            return await self._serve(terminated)

    async def _serve(self, terminated: asyncio.Event) -> int:
        ends = [asyncio.create_task(event.wait()) for event in (terminated, self._runner.died)]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
        if not terminated.is_set():
            # Another runner would be forked from a process that holds the key: systemd starts us anew instead.
            _logger.error("the runner died")
            return 1
        self._server.stop_accepting()
        if (port := self._keep.http_port) is not None:
            port.stop_accepting()
            await asyncio.gather(port.drain(_GRACE), self._server.drain(_GRACE))
        else:
            await self._server.drain(_GRACE)
        await self._runs.close()
        self._calls.close()
        self._http.close()
        # Whoever followed a run has seen its end now.
        await self._server.drain(_GRACE)
        return 0

    async def _warm_up(self) -> None:
        try:
            await self._workload.warm()
            if self._sources is not None:
                # Runs that had secrets before the keep was restarted are to have them again.
                await self._sources.first_attempts()
            await self._runs.resume()
        except RunnerDiedError:
            return  # which ends the keep anyway
        except (AppLoaderError, RefusalError) as error:
            _logger.error("runs will fail: %s", error)


async def _beat(heartbeat: Callable[[], None], interval: float) -> None:
    while True:
        heartbeat()
        await asyncio.sleep(interval)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
