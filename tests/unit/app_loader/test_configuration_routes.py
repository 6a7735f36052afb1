"""The workload's configuration over its routes and in runs: who may, what is refused, what becomes of it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from app_loader.configuration_store import ConfigurationStore
from app_loader.keep import Keep
from keep_protocol.digests import content_digest
from keep_protocol.errors import ErrorCode
from keep_protocol.keep_api import RunRequest
from keep_protocol.network_policy import Egress, EgressRule, NetworkPolicy
from keep_protocol.states import ExitReason, FileArea, KeepRole
from keep_protocol.workload_configuration import ConfigurationInfo, WorkloadConfiguration, canonical
from tests.unit.app_loader.asking import ask, problem, request
from tests.unit.app_loader.bare_keep import bare_keep
from tests.unit.app_loader.execution_harness import SPINS, Execution, ending, execute, guest, refused, spec, wat

JSON = {"content-type": "application/json"}
EXAMPLE = {
    "args": ["--port", "7"],
    "env": {"LANG": "C"},
    "mounts": [{"guest": "/data", "area": "data"}],
    "secrets": [{"name": "db", "env": "DB"}],
    "files": [
        {"kind": "null"},
        {"kind": "stdout"},
        {"kind": "stderr"},
        {"kind": "listen", "name": "web", "prot": "tls", "port": 443, "tls": {"client_certificates": "none"}},
        {"kind": "connect", "host": "db.example.org", "prot": "tcp", "port": 5432},
    ],
    "limits": {"memory": 65536},
    "http": {"wagi": True},
}


NETWORK = NetworkPolicy(
    listen=(443,),
    egress=Egress(allow=(EgressRule(host="db.example.org", ports=(5432,), methods=None, private=False),), deny=()),
)


def keep_in(state: Path, *, restart_runs: bool = False) -> Keep:
    (state / "workload").mkdir(exist_ok=True)
    wanted = spec(restart_runs=restart_runs, network=NETWORK)
    return bare_keep(wanted, state=state, workload=SimpleNamespace(kind=None))


def put(keep: Keep, document: Any) -> Any:
    body = document if isinstance(document, bytes) else msgspec.json.encode(document)
    return ask(request("PUT", "/v1/configuration", body, JSON), keep)


def test_a_configuration_is_stored_shown_found_again_and_removed(tmp_path: Path) -> None:
    keep = keep_in(tmp_path)
    stored = put(keep, EXAMPLE)
    assert stored.status == 200
    shown = ask(request("GET", "/v1/configuration"), keep)
    assert isinstance(shown.body, bytes)
    digest = hashlib.sha256(shown.body).digest()
    assert msgspec.json.decode(stored.body, type=ConfigurationInfo).digest == digest.hex()
    assert shown.headers["content-digest"] == content_digest(digest)
    assert msgspec.json.decode(shown.body) == msgspec.json.decode(
        canonical(msgspec.convert(EXAMPLE, WorkloadConfiguration))
    )
    again = ConfigurationStore(tmp_path, keep.spec)
    again.restore()
    assert again.digest == digest
    assert ask(request("DELETE", "/v1/configuration"), keep).status == 204
    assert problem(ask(request("GET", "/v1/configuration"), keep)).code == "configuration-not-found"
    again.restore()


def test_the_digest_does_not_depend_on_the_order_of_keys_or_on_defaults_written_out(tmp_path: Path) -> None:
    keep = keep_in(tmp_path)
    first = put(keep, b'{"args":["a"],"env":{"B":"2","A":"1"}}').body
    second = put(keep, b'{"env":{"A":"1","B":"2"},"stdin":"none","args":["a"],"http":null,"limits":{}}').body
    assert first == second


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"argz": []}, "$"),
        ({"args": "a"}, "$.args"),
        ({"args": ["a\0b"]}, "$.args[0]"),
        ({"env": {"A=B": "1"}}, "$"),
        ({"stdin": "terminal"}, "$.stdin"),
        ({"stdout": "drop"}, "$.stdout"),
        ({"mounts": [{"guest": "/x", "area": "etc"}]}, "$.mounts[0].area"),
        ({"secrets": [{"name": "a"}]}, "$.secrets[0]"),
        ({"files": [{"kind": "udp"}]}, "$.files[0].kind"),
        ({"files": [{"kind": "stdin"}, {"kind": "stdin"}]}, "$"),
        ({"files": [{"kind": "null", "name": "a:b"}]}, "$.files[0].name"),
        ({"files": [{"kind": "null", "port": 1}]}, "$.files[0]"),
        ({"files": [{"kind": "listen", "name": "a", "prot": "udp", "port": 1}]}, "$.files[0].prot"),
        ({"files": [{"kind": "listen", "name": "a", "prot": "tcp", "port": 0}]}, "$.files[0].port"),
        ({"files": [{"kind": "listen", "name": "a", "prot": "tcp", "port": 65536}]}, "$.files[0].port"),
        ({"files": [{"kind": "listen", "prot": "tcp", "port": 1}]}, "$.files[0]"),
        ({"files": [{"kind": "listen", "name": "a", "prot": "tcp", "port": 1, "tls": {}}]}, "$.files[0]"),
        (
            {
                "files": [
                    {
                        "kind": "listen",
                        "name": "a",
                        "prot": "tls",
                        "port": 1,
                        "tls": {"client_certificates": "required"},
                    }
                ]
            },
            "$.files[0].tls",
        ),
        ({"files": [{"kind": "connect", "prot": "tcp", "port": 1}]}, "$.files[0]"),
        ({"files": [{"kind": "connect", "host": "a b", "prot": "tcp", "port": 1}]}, "$.files[0].host"),
        (
            {"files": [{"kind": "connect", "host": "a", "prot": "tls", "port": 1, "tls": {"identity": "secret"}}]},
            "$.files[0].tls",
        ),
        (
            {
                "files": [{"kind": "listen", "name": "a", "prot": "tcp", "port": 80}],
                "http": {"port": 80},
            },
            "$",
        ),
        ({"limits": {"memory": 1}}, "$.limits.memory"),
        ({"limits": {"cpu": 1}}, "$.limits"),
        ({"http": {"port": 0}}, "$.http.port"),
        ({"restart": "always"}, "$.restart"),
        ({"features": ["gc", "threads"]}, "$.features[1]"),
        ({"features": ["gc", "gc"]}, "$"),
    ],
)
def test_what_is_wrong_is_refused_by_name_and_changes_nothing(tmp_path: Path, document: Any, field: str) -> None:
    keep = keep_in(tmp_path)
    assert put(keep, {"args": ["before"]}).status == 200
    refusal = problem(put(keep, document))
    assert (refusal.code, refusal.field) == ("field-invalid", field)
    assert keep.workload_configuration.require().args == ("before",)


@pytest.mark.parametrize(
    ("document", "code", "field"),
    [
        ({"limits": {"memory": 2**52}}, "limit-exceeded", "$.limits.memory"),
        ({"limits": {"run_time": 10**8}}, "limit-exceeded", "$.limits.run_time"),
        ({"limits": {"output": 2**52}}, "limit-exceeded", "$.limits.output"),
        ({"restart": True}, "configuration-refused", "$.restart"),
    ],
)
def test_what_the_spec_does_not_allow_is_refused_by_name(tmp_path: Path, document: Any, code: str, field: str) -> None:
    refusal = problem(put(keep_in(tmp_path), document))
    assert (refusal.code, refusal.field) == (code, field)


@pytest.mark.parametrize("size", [-3, 2**40], ids=["cut off", "without an end"])
def test_a_damaged_configuration_keeps_runs_from_starting_until_it_is_replaced(tmp_path: Path, size: int) -> None:
    keep = keep_in(tmp_path)
    assert put(keep, EXAMPLE).status == 200
    path = tmp_path / "workload" / "configuration.json"
    os.truncate(path, size if size > 0 else path.stat().st_size + size)

    async def play(execution: Execution) -> None:
        await execution.load(wat('(module (memory (export "memory") 1) (func (export "_start")))'))
        with refused(ErrorCode.CONFIGURATION_INVALID):
            await execution.run()
        await execution.configuration.replace(WorkloadConfiguration())
        assert ending(await execution.run()).code == 0

    execute(tmp_path, play)


def test_only_owners_configure_and_everybody_sees_it(tmp_path: Path) -> None:
    keep = keep_in(tmp_path)
    assert put(keep, EXAMPLE).status == 200
    for role in KeepRole:
        assert ask(request("GET", "/v1/configuration", roles=[role]), keep).status == 200
        put_by_role = ask(request("PUT", "/v1/configuration", b"{}", JSON, [role]), keep)
        assert put_by_role.status == (200 if role is KeepRole.OWNER else 403)
        assert put(keep, EXAMPLE).status == 200


def test_a_run_gets_what_is_configured_and_its_own_request_comes_first(tmp_path: Path) -> None:
    async def play(execution: Execution) -> None:
        await execution.load(guest("args_env"))
        await execution.configuration.replace(
            WorkloadConfiguration(args=("configured",), env={"A": "1", "B": "2"}, mounts=())
        )
        usual = await execution.stdout(await execution.run())
        assert usual == b"arg main.wasm\narg configured\nenv A=1\nenv B=2\n"
        own = await execution.run(RunRequest(args=("own",), env={"B": "3"}))
        assert await execution.stdout(own) == b"arg main.wasm\narg own\nenv A=1\nenv B=3\n"
        await execution.configuration.remove()
        assert await execution.stdout(await execution.run()) == b"arg main.wasm\n"

    execute(tmp_path, play)


def test_mounts_and_limits_of_the_configuration_hold(tmp_path: Path) -> None:
    async def play(execution: Execution) -> None:
        await execution.load(guest("prestat"))
        await execution.configuration.replace(
            msgspec.convert({"mounts": [{"guest": "/only", "area": FileArea.DATA}]}, WorkloadConfiguration)
        )
        assert await execution.stdout(await execution.run()) == b"|/only|\n"
        await execution.load(wat(SPINS))
        await execution.configuration.replace(msgspec.convert({"limits": {"run_time": 1}}, WorkloadConfiguration))
        assert ending(await execution.run()).reason is ExitReason.TIMEOUT
        await execution.load(guest("flood"))
        await execution.configuration.replace(msgspec.convert({"limits": {"output": 9}}, WorkloadConfiguration))
        assert ending(await execution.run()).reason is ExitReason.OUTPUT_LIMIT

    execute(tmp_path, play)


def test_a_configuration_outlives_the_keep_and_the_workload(tmp_path: Path) -> None:
    async def first(execution: Execution) -> None:
        await execution.load(guest("args_env"))
        await execution.configuration.replace(WorkloadConfiguration(args=("kept",)))
        await execution.workload.remove()

    async def second(execution: Execution) -> None:
        await execution.load(guest("args_env"))
        assert await execution.stdout(await execution.run()) == b"arg main.wasm\narg kept\n"

    execute(tmp_path, first)
    execute(tmp_path, second)
