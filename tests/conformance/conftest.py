"""One keep for all programs that the tests of a deployment run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.system.conftest import deployment, supervisor
from tests.system.deployment import Deployment

__all__ = ["deployment", "keep", "supervisor"]


@pytest.fixture(scope="session")
def keep(deployment: Deployment) -> Iterator[str]:
    """The id of a keep with the usual spec, sealed at rest; its workload is replaced by each test."""
    keep_id: str = deployment.create()["id"]
    yield keep_id
    deployment.keepctl("rm", keep_id)
