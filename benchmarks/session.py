"""What every subject measures on: fresh deployments under a private systemd, and the client that owns their keeps."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from keep_client import Credentials, Home, KeepClient, ManagerClient, connect_keep, new_spec, principal_of
from keep_protocol.manager_api import Keep
from keep_protocol.spec import Principal
from keep_protocol.states import KeepRole
from tests.system.deployment import Deployment

SUPERVISOR = "private"
"""As root with the whole sandbox, on a machine that has nothing prepared."""


class Client:
    """A deployment's first operator: creates keeps with default limits and owns them."""

    def __init__(self, home: Home, manager: ManagerClient) -> None:
        self.manager = manager
        self._principal = _owner(home.operator, home.client_ca)

    def create(self) -> Keep:
        """A new keep that is ready."""
        return self.manager.create_keep(new_spec(principals=[self._principal]))

    @contextmanager
    def keep(self) -> Iterator[tuple[Keep, KeepClient]]:
        """A keep that lives as long as the block, and a verified connection to it."""
        keep = self.create()
        try:
            with connect_keep(self.manager, keep.id) as client:
                client.verify()
                yield keep, client
        finally:
            self.manager.remove_keep(keep.id)


@dataclass(frozen=True, slots=True)
class Session:
    """One run of the benchmarks: how many readings a figure takes, and a folder for what they need."""

    folder: Path
    rounds: int
    quick: bool
    """Whether only to try things out: small numbers, meaningless figures."""

    @contextmanager
    def deployment(self, image: Path | None = None) -> Iterator[Deployment]:
        """A new home with its manager and its systemd; nothing of them is left afterwards. Machines boot `image`."""
        with tempfile.TemporaryDirectory(dir=self.folder) as home:
            deployment = Deployment(Path(home), SUPERVISOR)
            deployment.init()
            if image is not None:
                deployment.use_image(image)
            try:
                deployment.serve()
                yield deployment
            finally:
                deployment.down()

    @contextmanager
    def client(self, deployment: Deployment) -> Iterator[Client]:
        """The operator's connection to a deployment's manager."""
        with ManagerClient.from_home(deployment.home) as manager:
            yield Client(Home(deployment.home), manager)


def _owner(credentials: Credentials, client_ca: Path) -> Principal:
    return principal_of(credentials.certificate.read_text(), [KeepRole.OWNER], client_ca=client_ca.read_text())
