"""What most tests here need: an identity, a keep that answers, and a manager."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from keep_client import Credentials, KeepClient, ManagerClient
from tests.unit.keep_client.certificates import Authority, Pair, keep_certificate, self_signed
from tests.unit.keep_client.servers import ApiServer, Respond, server_context, serving

StartKeep = Callable[[Respond], tuple[ApiServer, KeepClient]]
StartManager = Callable[[Respond], tuple[ApiServer, ManagerClient]]


@pytest.fixture
def credentials(tmp_path: Path) -> Credentials:
    return self_signed().saved(tmp_path, "alice")


@pytest.fixture
def keep_pair() -> Pair:
    return keep_certificate()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def start_keep(stack: ExitStack, tmp_path: Path, credentials: Credentials, keep_pair: Pair) -> StartKeep:
    def start(respond: Respond) -> tuple[ApiServer, KeepClient]:
        server = ApiServer(server_context(keep_pair, tmp_path), respond)
        stack.enter_context(serving(server))
        client = KeepClient.from_certificate(server.endpoint, keep_pair.certificate, credentials=credentials)
        return server, stack.enter_context(client)

    return start


@pytest.fixture
def start_manager(stack: ExitStack, tmp_path: Path, credentials: Credentials) -> StartManager:
    def start(respond: Respond) -> tuple[ApiServer, ManagerClient]:
        authority = Authority()
        ca = tmp_path / "manager-ca.pem"
        ca.write_text(authority.certificate)
        folder = tmp_path / "manager"
        folder.mkdir()
        server = ApiServer(server_context(authority.server(), folder), respond)
        stack.enter_context(serving(server))
        client = ManagerClient(f"https://{server.endpoint}", ca=ca, credentials=credentials)
        return server, stack.enter_context(client)

    return start
