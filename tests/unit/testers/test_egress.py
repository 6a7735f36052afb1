"""Tests of `keepctl egress` and of the network of new keeps; on real keeps in tests/system/test_network.py."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from keep_protocol.network_policy import NO_NETWORK, NetworkPolicy
from tests.unit.keep_net.brokered import policy_of
from tests.unit.testers.conftest import Program
from tests.unit.testers.doubles import FakeDeployment


def written(folder: Path, policy: NetworkPolicy, *around: str) -> str:
    """A file with this policy, in objects with these keys."""
    document = json.loads(msgspec.json.encode(policy))
    for name in around:
        document = {name: document, "version": 1}
    (file := folder / "spec.json").write_text(json.dumps(document))
    return str(file)


@pytest.mark.parametrize("around", [(), ("network",), ("network", "spec")])
def test_a_policy_is_explained_from_a_file_and_the_exit_status_says_how(
    keepctl: Program, tmp_path: Path, around: tuple[str, ...]
) -> None:
    file = written(tmp_path, policy_of(["**.example.com"], ["evil.example.com"]), *around)
    good = keepctl("egress", "explain", "--spec", file, "https://a.example.com/path")
    assert (good.returncode, good.stderr) == (0, "")
    assert "allowed, if all addresses of the host are" in good.stdout
    bad = keepctl("egress", "explain", "--spec", file, "https://EVIL.example.com./")
    assert bad.returncode == 1
    assert "deny[0] evil.example.com:443" in bad.stdout
    rebound = keepctl("egress", "explain", "--spec", file, "a.example.com:443", "--address", "10.0.0.7", "--json")
    assert rebound.returncode == 1
    assert "10.0.0.7 is private" in json.loads(rebound.stdout)["decision"]["reason"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["https://a.com"], "whose policy?"),
        (["keep", "https://a.com", "--spec", "FILE"], "whose policy?"),
        (["keep", "https://a.com", "--address", "1.1.1.1"], "--address goes with --spec"),
        (["--spec", "FILE", "https://u@a.com"], "names a user"),
        (["--spec", "FILE", "https://a.com", "--address", "a.com"], "is not an IP address"),
        (["--spec", "BROKEN", "https://a.com"], "holds no network policy"),
        (["--spec", "MISSING", "https://a.com"], "No such file"),
    ],
)
def test_what_cannot_be_explained_is_an_error(
    keepctl: Program, tmp_path: Path, arguments: list[str], said: str
) -> None:
    (tmp_path / "broken").write_text('{"network": {"listen": [], "egress": {"allow": [{}], "deny": []}}}')
    places = {"FILE": written(tmp_path, NO_NETWORK), "BROKEN": str(tmp_path / "broken"), "MISSING": "missing"}
    done = keepctl("egress", "explain", *(places.get(word, word) for word in arguments))
    assert done.returncode == 1
    assert said in done.stderr


def test_options_become_the_network_of_a_spec(fake: FakeDeployment, keepctl: Program) -> None:
    done = keepctl(
        *("create", "--listen", "8080", "--listen", "8443", "--egress-deny", "evil.example.com:*"),
        *("--egress-allow", "https://BÜCHER.example", "--egress-allow", "10.0.0.0/8:5432+private"),
    )
    assert done.returncode == 0, done.stderr
    (keep,) = fake.keeps.values()
    allow = ["xn--bcher-kva.example", "10.0.0.0/8:5432+private"]
    assert keep.spec.network == policy_of(allow, ["evil.example.com:*"], listen=[8080, 8443])


def test_a_keep_has_no_network_unless_it_is_asked_for(fake: FakeDeployment, keepctl: Program) -> None:
    keepctl("create")
    assert [keep.spec.network for keep in fake.keeps.values()] == [NO_NETWORK]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--egress-allow", "ftp://a.com"], 2, "is not a rule"),
        (["--egress-allow", "https://a.com/path"], 2, "not about paths"),
        (["--listen", "0"], 2, "not a port"),
        (["--listen", "80", "--listen", "80"], 1, "names a port twice"),
        (["--egress-allow", "a.com", "--egress-deny", "**.com:*"], 1, "`deny[0] **.com:*` does not deny"),
        (["--egress-deny", "a.com+private"], 1, "egress.deny[0].private"),
    ],
)
def test_options_that_make_no_network_are_refused_before_a_keep_is_made(
    fake: FakeDeployment, keepctl: Program, arguments: list[str], status: int, said: str
) -> None:
    done = keepctl("create", *arguments)
    assert (done.returncode, fake.keeps) == (status, {})
    assert said in done.stderr


def test_a_keep_that_exists_gets_no_other_network_for_a_run(fake: FakeDeployment, keepctl: Program, wasm: Path) -> None:
    keepctl("create", "--name", "prices")
    done = keepctl("run", "--keep", "prices", str(wasm), "--listen", "8080")
    assert done.returncode == 125
    assert "has the network of its spec" in done.stderr
