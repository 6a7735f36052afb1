"""The manager is killed at every step of creating and removing; nothing may be lost or left over."""

from __future__ import annotations

import pytest

from keep_manager.faults import FAULT_POINTS
from tests.system.deployment import Deployment, eventually, example


def _settled(deployment: Deployment) -> list[dict[str, object]]:
    """The keeps, once none is on its way any more."""
    moving = {"creating", "starting", "stopping", "removing"}

    def settled() -> tuple[list[dict[str, object]]] | None:
        keeps = deployment.keeps()
        return None if any(keep["state"] in moving for keep in keeps) else (keeps,)

    keeps: list[dict[str, object]] = eventually(settled)[0]
    return keeps


@pytest.mark.parametrize("point", [point for point in FAULT_POINTS if not point.startswith("remove:")])
def test_a_manager_killed_while_creating_leaves_a_whole_keep_or_none(fresh_deployment: Deployment, point: str) -> None:
    fresh_deployment.stop_manager()
    fresh_deployment.serve(environment={"WASMKEEP_FAULT": point})
    failed = fresh_deployment.keepctl("create", "--name", "half", check=False)
    assert failed.returncode != 0
    fresh_deployment.await_manager_death()
    fresh_deployment.serve()
    keeps = _settled(fresh_deployment)
    assert [keep["state"] for keep in keeps] in ([], ["ready"])
    assert len(fresh_deployment.keep_mains()) == len(keeps)
    if not keeps:
        fresh_deployment.create("--name", "half")
    result = fresh_deployment.keepctl("run", str(example("hello")), "--keep", "half")
    assert result.stdout == "Hello, world!\n"


@pytest.mark.parametrize("point", [point for point in FAULT_POINTS if point.startswith("remove:")])
def test_a_manager_killed_while_removing_removes_the_keep_when_it_comes_back(
    fresh_deployment: Deployment, point: str
) -> None:
    fresh_deployment.stop_manager()
    fresh_deployment.serve(environment={"WASMKEEP_FAULT": point})
    keep = fresh_deployment.create()
    fresh_deployment.keepctl("rm", keep["id"], check=False)
    fresh_deployment.await_manager_death()
    fresh_deployment.serve()
    eventually(lambda: fresh_deployment.keeps() == [])
    eventually(lambda: fresh_deployment.keep_mains() == [])
    assert not list(fresh_deployment.home.rglob(f"*{keep['id']}*"))


def test_keeps_of_one_deployment_are_untouched_by_another(deployment: Deployment, fresh_deployment: Deployment) -> None:
    mine = deployment.create()
    fresh_deployment.create()
    fresh_deployment.down()
    assert deployment.keep(mine["id"])["pid"] == mine["pid"]
    deployment.keepctl("rm", mine["id"])
