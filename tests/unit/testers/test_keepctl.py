"""`keepctl` as a whole: arguments, output for machines and for people, errors."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from keep_protocol import __version__
from keep_protocol.keep_api import HttpPortStatus
from keep_protocol.states import CrlPolicy, KeepRole, KeepState
from testers.keepctl import main
from testers.keepctl.completion import words_of
from testers.keepctl.program import build_parser
from tests.unit.keep_client.certificates import Authority, keep_certificate, self_signed
from tests.unit.testers.conftest import Program, command, environment
from tests.unit.testers.doubles import FakeDeployment, Outcome

COMMANDS = sorted(words_of(build_parser()).keys() - {"", "egress", "identity", "policy", "secret"})


def test_create_answers_in_the_shape_that_scripts_rely_on(fake: FakeDeployment, keepctl: Program) -> None:
    done = keepctl("create", "--name", "prices", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    (keep,) = fake.keeps.values()
    document = json.loads(done.stdout)
    expected = {
        "id": keep.id,
        "name": "prices",
        "state": "ready",
        "backend": "process",
        "endpoint": keep.server.endpoint,
        "certificate": keep.pair.certificate,
        "pid": 4711,
        "created_at": "2026-01-01T00:00:00Z",
    }
    assert expected.items() <= document.items()
    assert json.loads(keepctl("ls", "--json").stdout) == [document]


def test_create_passes_limits_and_principals_on(fake: FakeDeployment, keepctl: Program, tmp_path: Path) -> None:
    self_signed("spiffe://example.org/user/bob").saved(tmp_path, "bob")
    done = keepctl(
        "create",
        *("--memory", "1G", "--cpu", "50%", "--tasks", "64", "--files", "0", "--workload-limit", "1M"),
        *("--output-limit", "1K", "--run-time", "2m", "--runs", "1"),
        *("--allow", "caller=bob.pem", "--allow", "auditor=spiffe://example.org/user/carol"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    spec = next(iter(fake.keeps.values())).spec
    limits = spec.limits
    assert (limits.memory, limits.cpu, limits.tasks, limits.files) == (1 << 30, 50, 64, 0)
    assert (limits.workload, limits.output, limits.run_time, limits.runs) == (1 << 20, 1024, 120, 1)
    operator, bob, carol = spec.principals
    assert (operator.roles, operator.spiffe_id, operator.crl) == (
        (KeepRole.OWNER,),
        "spiffe://example.org/user/operator",
        CrlPolicy.REQUIRED,
    )
    assert (bob.roles, bob.spiffe_id) == ((KeepRole.CALLER,), None)
    assert (carol.roles, carol.spiffe_id) == ((KeepRole.AUDITOR,), "spiffe://example.org/user/carol")


def test_somebody_of_another_ca_needs_that_ca(fake: FakeDeployment, keepctl: Program, tmp_path: Path) -> None:
    Authority().client().saved(tmp_path, "eve")
    done = keepctl("create", "--allow", "caller=eve.pem")
    assert done.returncode == 1
    assert "was not issued by the CA" in done.stderr
    assert fake.keeps == {}


def test_a_keep_that_cannot_be_verified_is_named(fake: FakeDeployment, keepctl: Program) -> None:
    def exchange() -> None:
        (keep,) = fake.keeps.values()
        keep.pair = self_signed()

    fake.creating = exchange
    done = keepctl("create")
    assert done.returncode == 1
    assert f"`keepctl rm {next(iter(fake.keeps))}` removes it" in done.stderr


def test_keeps_are_listed_shown_stopped_started_and_removed(fake: FakeDeployment, keepctl: Program) -> None:
    keep_id = keepctl("create", "--name", "prices").stdout.split()[0]
    assert keepctl("ls").stdout.splitlines()[1].split()[:3] == [keep_id, "prices", "ready"]
    shown = keepctl("show", "prices").stdout
    assert "limits (enforced)" in shown
    assert "PrivateNetwork  verified now" in shown
    assert json.loads(keepctl("show", "prices", "--json").stdout)["keep"]["id"] == keep_id
    assert keepctl("stop", "prices").stdout.split()[-1] == "stopped"
    assert fake.keeps[keep_id].state is KeepState.STOPPED
    assert json.loads(keepctl("start", "prices", "--json").stdout)["state"] == "ready"
    assert keepctl("restart", "prices").returncode == 0
    assert keepctl("logs", "prices").stdout == "ready\n"
    assert json.loads(keepctl("rm", "prices", "--json").stdout) == {"removed": ["prices"]}
    assert fake.keeps == {}


def test_an_unknown_keep_is_one_line_with_its_code(fake: FakeDeployment, keepctl: Program) -> None:
    for arguments in (["show", "x"], ["rm", "x"], ["runs", "x"], ["put", "x", ".", "/data/x"]):
        done = keepctl(*arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "keepctl: keep-not-found: there is no keep x\n"


def test_the_port_of_a_workload_is_shown_with_its_url(fake: FakeDeployment, keepctl: Program) -> None:
    keepctl("create", "--name", "shop", "--listen", "8443")
    (keep,) = fake.keeps.values()
    assert json.loads(keepctl("show", "shop", "--json").stdout)["http"] is None
    keep.http_port = HttpPortStatus(8443, public=True, listening=True)
    assert "http            https://127.0.0.1:8443/ for everybody\n" in keepctl("show", "shop").stdout
    assert json.loads(keepctl("show", "shop", "--json").stdout)["http"]["url"] == "https://127.0.0.1:8443/"
    keep.http_port = HttpPortStatus(8443, public=False, listening=False, problem="it is taken")
    assert "8443/ for its owners and callers (closed: it is taken)\n" in keepctl("show", "shop").stdout
    # Of one with another key than the manager says.
    keep.pair = keep_certificate()
    assert "http            unknown: the keep was not asked: " in keepctl("show", "shop").stdout


def test_events_are_lines_or_a_document(fake: FakeDeployment, keepctl: Program) -> None:
    assert keepctl("events").stdout.splitlines()[0] == "1  2026-01-01T00:00:00Z  keep-ready  -  -  a=b"
    assert [event["cursor"] for event in json.loads(keepctl("events", "--since", "1", "--json").stdout)] == [2, 3]


def test_a_workload_is_loaded_run_and_its_output_fetched_again(
    fake: FakeDeployment, keepctl: Program, wasm: Path
) -> None:
    fake.guest = lambda request, keep: Outcome([b"out"], [b"err"])
    keepctl("create", "--name", "prices")
    assert keepctl("load", "prices", str(wasm)).stdout.split()[-1] == "loaded"
    assert json.loads(keepctl("load", "prices", str(wasm), "--json").stdout)["size"] == 8
    assert keepctl("run", str(wasm), "--keep", "prices").returncode == 0
    (run,) = json.loads(keepctl("runs", "prices", "--json").stdout)
    assert (run["id"], run["state"], run["exit"]["reason"], run["exit"]["code"]) == ("r0", "exited", "code", 0)
    assert {"started_at", "ended_at"} <= set(run)
    assert "code 0" in keepctl("runs", "prices").stdout
    assert keepctl("output", "prices", "r0").stdout == "out"
    assert keepctl("output", "prices", "r0", "--stderr", "--follow").stdout == "err"


def test_common_options_may_stand_before_and_after_the_command(fake: FakeDeployment, tmp_path: Path) -> None:
    home = str(fake.home)
    for arguments in (
        ["--home", home, "--json", "ls"],
        ["ls", "--json", "--home", home],
        ["--home", home, "ls", "--json"],
    ):
        done = _run(*arguments)
        assert (done.returncode, done.stdout) == (0, "[]\n")


def test_a_manager_can_be_named_without_a_home(fake: FakeDeployment) -> None:
    pki = fake.home / "config" / "pki"
    connection = ("--manager", f"https://{fake.server.endpoint}", "--ca", str(pki / "server-ca.pem"))
    identity = ("--cert", str(pki / "operator.pem"), "--key", str(pki / "operator.key"))
    assert _run("ls", "--json", *connection, *identity).stdout == "[]\n"
    done = _run("create", *connection, *identity)
    assert (done.returncode, "--client-ca" in done.stderr) == (1, True)
    done = _run("create", *connection, *identity, "--client-ca", str(pki / "client-ca.pem"))
    assert (done.returncode, done.stderr) == (0, "")


def test_without_a_deployment_the_way_to_name_one_is_told() -> None:
    done = _run("ls")
    assert (done.returncode, done.stderr) == (
        1,
        "keepctl: no deployment is named: give --home (or WASMKEEP_HOME), or --manager and --ca\n",
    )


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["frobnicate"],
        ["create", "--memory", "64MB"],
        ["create", "--allow", "king=x.pem"],
        ["run"],
        ["run", "x.wasm", "stray"],
        ["run", "x.wasm", "--timeout", "soon"],
        ["run", "x.wasm", "--dir", "x"],
        ["run", "x.wasm", "--env", "x"],
        ["ls", "--js"],
    ],
)
def test_a_command_line_that_is_not_understood_is_status_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: keepctl" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*name.split(), "--help"])
    assert ended.value.code == 0
    assert f"keepctl {name}" in capsys.readouterr().out.partition("examples:\n")[2]


def test_the_version_is_that_of_the_package() -> None:
    assert _run("--version").stdout == f"keepctl {__version__}\n"


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command("testers.keepctl", *arguments),
        env=environment(None),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "known"),
    [
        (["create", "--at-rest", "never"], "'sealed', 'plain'"),
        (["create", "--backend", "none"], "none is none of process, "),
        (["watch", "prices", "--action", "none"], "none is none of warn, stop"),
        (["seal", "prices", "a", "b", "--bind", "none"], "none is none of "),
        (["create", "--evidence", "none"], "'snp', 'tdx'"),
        (["create", "--kbs-key", "none"], "'ec', 'rsa'"),
        (["verify", "file", "--kind", "none"], "'snp', 'tdx'"),
    ],
)
def test_a_wrong_word_is_told_with_those_that_are_known(
    arguments: list[str], known: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    # Later Pythons write no quotes.
    assert known.replace("'", "") in capsys.readouterr().err.replace("'", "")
