"""A manager with everything but systemd, serving mutual TLS in a thread of the test."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import ssl
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from keep_manager.config import Address, Home, Settings
from keep_manager.initialise import initialise
from keep_manager.issued import register
from keep_manager.listener import listen_on
from keep_manager.pki import PkiPaths, issue_client, load_authority, request_key, spiffe_id
from keep_manager.protocol import DeadlineLoop
from keep_manager.roles import Quota, add_identity
from keep_manager.server import RunningManager, http_server
from keep_protocol.handover import Configuration
from keep_protocol.names import new_deployment_id
from keep_protocol.network_policy import NO_NETWORK
from keep_protocol.spec import DEFAULT_LIMITS, KeepSpec, Principal, canonical
from keep_protocol.states import AtRest, Backend, KeepRole, ManagerRole
from tests.unit.keep_manager.fake_supervisor import FakeSupervisor, keep_certificate

DOMAIN = "test.internal"
GENEROUS = Quota(max_keeps=3, max_memory=2**32, max_disk=2**34)

_T = TypeVar("_T")


@dataclass(frozen=True)
class Client:
    """A person with a key and a certificate."""

    name: str
    certificate: Path
    key: Path

    @property
    def id(self) -> str:
        return spiffe_id(DOMAIN, self.name)

    @property
    def der(self) -> bytes:
        certificate = x509.load_pem_x509_certificate(self.certificate.read_bytes())
        return certificate.public_bytes(serialization.Encoding.DER)


def make_home(path: Path, **changes: Any) -> Home:
    """A home as `init` makes it."""
    home = Home(path)
    values: dict[str, Any] = {
        "domain": DOMAIN,
        "deployment": new_deployment_id(),
        "listen": Address("127.0.0.1", 0),
        "hosts": (),
        "systemd": "private",
        "endpoint_address": "127.0.0.1",
        "endpoint_ports": None,
        "allow_shared_uid": False,
    }
    initialise(home, Settings(**(values | changes)))
    return home


def make_request(name: str = "somebody") -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    """A key, and a signing request for it in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return key, request.public_bytes(serialization.Encoding.PEM)


def make_client(home: Home, name: str, roles: tuple[ManagerRole, ...] = (), quota: Quota | None = None) -> Client:
    """A certificate by way of a request, and the roles for it."""
    paths = PkiPaths(home.pki)
    key, request = make_request(name)
    certificate = issue_client(load_authority(paths.client_ca), request_key(request), name=name, domain=DOMAIN)
    register(paths, certificate, name, spiffe_id(DOMAIN, name))
    client = Client(name, home.path / f"{name}.pem", home.path / f"{name}.key")
    client.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    client.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    if roles:
        tenant_quota = quota or GENEROUS if ManagerRole.TENANT in roles else None
        add_identity(home.roles_file, client.id, list(roles), tenant_quota)
    return client


def operator_of(home: Home) -> Client:
    """Whom `init` made."""
    return Client("operator", home.pki / "operator.pem", home.pki / "operator.key")


def tls_context(home: Home, client: Client | None) -> ssl.SSLContext:
    """What a client of this home uses."""
    context = ssl.create_default_context(cafile=str(home.pki / "server-ca.pem"))
    if client is not None:
        context.load_cert_chain(client.certificate, client.key)
    return context


def keep_body(name: str | None = None, *principals: Principal, **limits: int) -> dict[str, Any]:
    """A valid body of `POST /v1/keeps`."""
    everybody = principals or (Principal((KeepRole.OWNER,), certificate=_any_certificate()),)
    spec = KeepSpec(
        version=1,
        nonce=secrets.token_hex(16),
        backend=Backend.PROCESS,
        at_rest=AtRest.PLAIN,
        evidence=None,
        network=NO_NETWORK,
        principals=everybody,
        limits=msgspec.structs.replace(DEFAULT_LIMITS, **limits),
        restart_runs=False,
    )
    body: dict[str, Any] = {"spec": json.loads(canonical(spec))}
    return body if name is None else body | {"name": name}


@dataclass
class Running:
    """A served manager; `call` runs something in its event loop."""

    home: Home
    supervisor: FakeSupervisor
    url: str
    manager: RunningManager
    loop: asyncio.AbstractEventLoop
    clients: list[httpx.Client] = field(default_factory=list)

    def client(self, who: Client | None = None) -> httpx.Client:
        """An HTTPS client of its own connection; closed with the manager."""
        context = tls_context(self.home, who or operator_of(self.home))
        client = httpx.Client(base_url=self.url, verify=context, timeout=10, trust_env=False)
        self.clients.append(client)
        return client

    def call(self, act: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """The result of a coroutine that runs in the manager's loop."""
        return asyncio.run_coroutine_threadsafe(act(), self.loop).result(timeout=10)

    def wait_for(self, condition: Callable[[], bool], seconds: float = 10) -> None:
        """Until a condition holds in the manager's loop; its loop is what makes it hold."""

        async def hold() -> None:
            async with asyncio.timeout(seconds):
                # The conditions are state of the code under test, which has no event for each of them.
                while not condition():  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

        self.call(hold)


@contextmanager
def running(home: Home, settings: Settings, supervisor: FakeSupervisor) -> Iterator[Running]:
    """Serve a home until the block ends."""
    ready = threading.Event()
    failures: list[BaseException] = []
    parts: dict[str, Any] = {}

    async def serve() -> None:
        listener = listen_on(Address("127.0.0.1", 0))
        try:
            manager = RunningManager(home, settings, supervisor)
            server = http_server(manager, ready.set)
            parts.update(manager=manager, server=server, loop=asyncio.get_running_loop())
            parts["url"] = f"https://127.0.0.1:{listener.getsockname()[1]}"
            try:
                await manager.start()
                await server.serve([listener])
            finally:
                await manager.close()
        finally:
            listener.close()

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=DeadlineLoop) as runner:
                runner.run(serve())
        except BaseException as error:
            failures.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    ready.wait(20)
    if failures:
        thread.join()
        raise failures[0]
    served = Running(home, supervisor, parts["url"], parts["manager"], parts["loop"])
    try:
        yield served
    finally:
        for client in served.clients:
            client.close()

        def stop() -> None:
            parts["manager"].context.events.close()
            parts["server"].should_exit = True

        parts["loop"].call_soon_threadsafe(stop)
        thread.join(20)
        assert not thread.is_alive()
    if failures:
        raise failures[0]


def _any_certificate() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = keep_certificate(key, Configuration("a", "b", "", DOMAIN, ()))
    return base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()
