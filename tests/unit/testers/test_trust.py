"""Keeps that must prove themselves: what is remembered of them, and that nobody's word takes its place."""

from __future__ import annotations

import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from keep_client import InvalidArgumentError
from keep_protocol.manager_api import Keep
from testers.deployment import Deployment
from testers.keepctl.trust_store import TrustedKeep, TrustStore
from tests.unit.testers.conftest import Program
from tests.unit.testers.doubles import FakeDeployment, FakeKeep

KNOWN = "ab12ab12ab12ab12"
POLICY = f'name = "dev"\n[simulated]\nmeasurements = ["{"11" * 32}"]\n'


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    (path := tmp_path / "policy.toml").write_text(POLICY)
    return path


def _made(fake: FakeDeployment, keepctl: Program, *arguments: str) -> FakeKeep:
    keepctl("create", "--name", "prices", "--evidence", "simulated", *arguments)
    return next(iter(fake.keeps.values()))


def _file(fake: FakeDeployment, keep: FakeKeep) -> Path:
    return fake.home / "trust" / f"{keep.id}.toml"


def test_create_remembers_the_spec_that_was_written(fake: FakeDeployment, keepctl: Program) -> None:
    keep = _made(fake, keepctl)
    path = _file(fake, keep)
    known = tomllib.loads(path.read_text())
    assert known == {"keep": keep.id, "name": "prices", "evidence": "simulated", "spec-digest": keep.digest}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert "simulated" in keepctl("ls").stdout
    assert keepctl("rm", "prices").returncode == 0
    assert not path.exists()


def test_a_keep_with_evidence_and_without_policy_is_not_spoken_to(fake: FakeDeployment, keepctl: Program) -> None:
    keep = _made(fake, keepctl)
    done = keepctl("runs", "prices")
    assert done.returncode == 1
    assert "keepctl trust prices" in done.stderr
    assert "--policy FILE" in done.stderr
    _file(fake, keep).unlink()
    # What the manager says is enough to refuse.
    assert "with simulated evidence, and no policy for it is known" in keepctl("runs", "prices").stderr
    assert keep.server.received == []


def test_a_keep_that_proves_nothing_gets_no_request(fake: FakeDeployment, keepctl: Program, policy: Path) -> None:
    done = keepctl("create", "--name", "prices", "--evidence", "simulated", "--policy", str(policy))
    keep = next(iter(fake.keeps.values()))
    assert done.returncode == 1
    assert "proves nothing" in done.stderr
    assert tomllib.loads(_file(fake, keep).read_text())["policy"] == tomllib.loads(POLICY)
    # The manager's word that there never was evidence counts no more.
    keep.evidence = None
    for arguments in (("runs", "prices"), ("runs", keep.id), ("get", "prices", "/output/x", "x")):
        assert "proves nothing" in keepctl(*arguments).stderr
    assert keep.server.received == []


def test_a_policy_is_demanded_of_keeps_that_the_manager_says_have_no_evidence(
    fake: FakeDeployment, keepctl: Program, policy: Path
) -> None:
    keepctl("create", "--name", "plain")
    done = keepctl("runs", "plain", "--policy", str(policy))
    assert done.returncode == 1
    assert "proves nothing" in done.stderr
    assert keepctl("runs", "plain").returncode == 0


def test_another_keep_in_place_of_a_known_one_is_refused(
    fake: FakeDeployment, keepctl: Program, policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = _made(fake, keepctl, "--policy", str(policy))
    record = keep.record()
    monkeypatch.setattr(keep, "record", lambda: msgspec.structs.replace(record, id="0" * 16))
    assert f"the manager answers for keep '{'0' * 16}', not for {keep.id}: refused" in keepctl("runs", "prices").stderr
    assert keep.server.received == []


def test_a_manager_cannot_make_us_forget_a_known_keep(
    fake: FakeDeployment, keepctl: Program, policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = _made(fake, keepctl, "--policy", str(policy))
    before = _file(fake, keep).read_text()
    honest = FakeKeep.wire
    for lie in ({"id": keep.id}, {"name": "prices"}, {"name": keep.id}):

        def lying(self: FakeKeep, lie: Mapping[str, str] = lie) -> Keep:
            return msgspec.structs.replace(honest(self), **lie)

        with monkeypatch.context() as patched:
            patched.setattr(FakeKeep, "wire", lying)
            done = keepctl("create", "--name", "other", "--evidence", "simulated")
        assert done.returncode == 1
        assert "refused" in done.stderr
        assert _file(fake, keep).read_text() == before
        keepctl("rm", "other")


def test_a_name_of_several_keeps_is_none(tmp_path: Path) -> None:
    store = TrustStore(tmp_path)
    for number in range(2):
        store.write(TrustedKeep(keep=f"{number:016x}", name="prices"))
    with pytest.raises(InvalidArgumentError, match="several keeps"):
        store.find("prices")
    assert (known := store.find(f"{1:016x}")) is not None
    assert known.keep == f"{1:016x}"


def test_trust_pins_nothing_of_a_keep_that_proves_nothing(fake: FakeDeployment, keepctl: Program) -> None:
    keep = _made(fake, keepctl)
    done = keepctl("trust", "prices", "--yes")
    assert done.returncode == 1
    assert "cannot be trusted" in done.stderr
    assert "policy" not in tomllib.loads(_file(fake, keep).read_text())
    assert keepctl("attest", "prices").returncode == 1
    assert keep.server.received == []


@pytest.mark.parametrize("command", [("trust", "--yes"), ("attest",)])
def test_a_name_of_hex_digits_is_a_name(command: tuple[str, ...], fake: FakeDeployment, keepctl: Program) -> None:
    keepctl("create", "--name", "cafe")
    assert "proves nothing" in keepctl(command[0], "cafe", *command[1:]).stderr


def test_cert_says_that_a_certificate_has_no_evidence(fake: FakeDeployment, keepctl: Program) -> None:
    keepctl("create", "--name", "plain")
    (keep,) = fake.keeps.values()
    assert "none: the keep is trusted because the manager names its key" in keepctl("cert", "plain").stdout
    assert keepctl("cert", "plain", "--pem").stdout == keep.pair.certificate


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("create", "--policy", "policy.toml"), "give --evidence too"),
        (("create", "--evidence", "simulated", "--policy", "nothing.toml"), "cannot be read"),
        (("run", "guest.wasm", "--evidence", "simulated"), "give --policy FILE"),
        (("run", "guest.wasm", "--keep", "x", "--evidence", "simulated"), "has its own"),
    ],
)
def test_options_that_contradict_each_other_make_no_keep(
    arguments: tuple[str, ...], words: str, fake: FakeDeployment, keepctl: Program, policy: Path, wasm: Path
) -> None:
    done = keepctl(*arguments)
    assert done.returncode in (1, 125)
    assert words in done.stderr
    assert fake.keeps == {}


def test_a_file_of_the_store_that_is_broken_is_no_reason_to_go_on_without_it(tmp_path: Path) -> None:
    store = TrustStore(tmp_path / "trust")
    store.write(TrustedKeep(keep=KNOWN, name="prices", policy={"name": "x", "simulated": {"measurements": []}}))
    found = store.find("prices")
    assert found is not None
    assert found == store.find(KNOWN)
    assert found.load_policy() is not None
    assert store.find("cd34") is None
    path = tmp_path / "trust" / f"{KNOWN}.toml"
    for broken in ("keep = ", 'keep = "ab12ab12ab12ab12"\nname = "prices"\nextra = 1\n'):
        path.write_text(broken)
        with pytest.raises(InvalidArgumentError, match="remove it, or repair it"):
            store.find("prices")


def test_the_managers_ids_do_not_lead_out_of_the_store(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="is no id of a keep"):
        TrustStore(tmp_path).write(TrustedKeep(keep="../../etc/x", name="prices"))


def test_without_a_home_the_store_is_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    deployment = Deployment(home=None, url=None, ca=None, certificate=None, key=None, client_ca=None)
    assert TrustStore.of(deployment).folder == tmp_path / "wasmkeep" / "trust"
