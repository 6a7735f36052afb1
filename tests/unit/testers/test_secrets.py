"""Tests of `testers.keepctl.secrets` and of `run --secret`; on real keeps in tests/system/test_secrets.py."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from keep_client import InvalidArgumentError, KeepClientError, ProblemError
from keep_protocol.errors import Problem
from keep_protocol.secret_api import MAX_SECRET, SecretUse
from testers.deployment import error_line
from testers.keepctl.option_words import fields_as_options
from testers.keepctl.secrets import secret_use
from testers.keepctl.specification import SPEC_OPTIONS
from tests.unit.testers.conftest import Program
from tests.unit.testers.doubles import FakeDeployment


def problem(code: str, detail: str, field: str | None = None) -> ProblemError:
    return ProblemError(Problem("about:blank", code, 409, detail, code, field))


@pytest.mark.parametrize(
    ("text", "use"),
    [
        ("db-password", SecretUse("db-password", env="DB_PASSWORD")),
        ("tls.key", SecretUse("tls.key", env="TLS_KEY")),
        ("db=PASSWORD", SecretUse("db", env="PASSWORD")),
        ("db=A:B", SecretUse("db", env="A:B")),
        ("db:/secrets/db", SecretUse("db", file="/secrets/db")),
        ("db:/a=b", SecretUse("db", file="/a=b")),
    ],
)
def test_a_secret_for_a_run_is_a_variable_or_a_file(text: str, use: SecretUse) -> None:
    assert secret_use(text) == use


@pytest.mark.parametrize("text", ["", "=", ":", "=A", ":/a", "db=", "db:relative", "db:/", "-db", "a b=C"])
def test_what_is_neither_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected NAME"):
        secret_use(text)


def test_run_names_the_secrets_and_never_their_values(fake: FakeDeployment, keepctl: Program, wasm: Path) -> None:
    keepctl("create", "--name", "prices")
    done = keepctl("run", "--keep", "prices", str(wasm), "--secret", "db=DB", "--secret", "key:/secrets/key")
    assert done.returncode == 0, done.stderr
    ((request,),) = (keep.requests for keep in fake.keeps.values())
    assert request.secrets == (SecretUse("db", env="DB"), SecretUse("key", file="/secrets/key"))


def test_secrets_for_a_keep_that_is_made_for_the_run_are_refused_before_it_is(
    fake: FakeDeployment, keepctl: Program, wasm: Path
) -> None:
    done = keepctl("run", str(wasm), "--secret", "db")
    assert done.returncode == 125
    assert "name one with --keep" in done.stderr
    assert (fake.keeps, fake.removed) == ({}, [])


def test_a_value_that_is_too_large_is_refused_before_anything_is_sent(keepctl: Program, tmp_path: Path) -> None:
    (file := tmp_path / "large").write_bytes(bytes(MAX_SECRET + 1))
    done = keepctl("secret", "put", "prices", "large", str(file))
    assert done.returncode == 1
    assert "at most 64 KiB" in done.stderr


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (
            problem("rollback-refused", "`expected_counter` or `allow_rollback`"),
            "--counter or --allow-rollback",
        ),
        (problem("field-invalid", "cannot be bound to signer", field="$.bind"), "cannot be bound to signer (--bind)"),
        (problem("spec-invalid", "too large", field="spec.limits.run_time"), "too large (--run-time)"),
        (problem("spec-invalid", "too large", field="spec.nonce"), "too large (spec.nonce)"),
        (InvalidArgumentError("`evidence` of a process keep"), "--evidence of a process keep"),
    ],
)
def test_fields_of_the_api_are_told_as_options(raised: KeepClientError, told: str) -> None:
    options = {**SPEC_OPTIONS, "expected_counter": "--counter", "allow_rollback": "--allow-rollback", "bind": "--bind"}
    with pytest.raises(type(raised)) as caught, fields_as_options(options):
        raise raised
    assert told in error_line(caught.value)


def test_evidence_that_process_keeps_cannot_give_is_refused_with_what_they_can(keepctl: Program) -> None:
    done = keepctl("create", "--evidence", "snp")
    assert done.returncode == 1
    assert '--evidence of a process keep is one of null, "tpm", "simulated"' in done.stderr
    assert 'keeps with "snp" are of the backend snp' in done.stderr


def test_envelope_and_json_do_not_share_standard_output(keepctl: Program, tmp_path: Path) -> None:
    (file := tmp_path / "data").write_bytes(b"data")
    done = keepctl("seal", "prices", str(file), "-", "--purpose", "p", "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert "name a file" in done.stderr
