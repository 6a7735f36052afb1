"""Secrets that a new keep fetches, by options of `keepctl create`, and how they are listed."""

from __future__ import annotations

import argparse
import base64
from pathlib import Path
from typing import Any

import pytest

from keep_client import InvalidArgumentError
from keep_protocol.secret_sources import AwsKmsSource, BrokerKey, InstanceCredentials, KbsSource, SecretCredentials
from testers.keepctl.secret_sources import (
    add_secret_source_options,
    secret_from_kbs,
    secret_from_kms,
    secret_sources_of,
)
from tests.unit.app_loader.key_release.services import ServiceAuthority
from tests.unit.testers.conftest import Program
from tests.unit.testers.doubles import FakeDeployment

KBS = "db=https://kbs.example#default/password/db"


def parsed(*arguments: str) -> Any:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_secret_source_options(parser)
    return secret_sources_of(parser.parse_args(arguments))


def test_a_broker_is_named_by_its_url_and_the_resource() -> None:
    assert parsed("--secret-from-kbs", KBS) == (KbsSource("db", "https://kbs.example", "default/password/db"),)


def test_how_they_are_fetched_is_said_once_for_all(tmp_path: Path) -> None:
    authority = ServiceAuthority()
    (roots := tmp_path / "roots.pem").write_bytes(authority.pem)
    first, second = parsed(
        *("--secret-from-kbs", KBS, "--secret-from-kbs", "tls=https://kbs.example:8443/x#default/tls/key"),
        *("--secret-roots", str(roots), "--secret-refresh", "1h", "--kbs-key", "rsa", "--kbs-without-claims"),
    )
    assert (first.roots, first.refresh, first.key, first.claims) == (authority.roots, 3600, BrokerKey.RSA, False)
    assert (second.name, second.url, second.roots) == ("tls", "https://kbs.example:8443/x", authority.roots)


def test_kms_decrypts_a_file(tmp_path: Path) -> None:
    (file := tmp_path / "db.kms").write_bytes(b"ciphertext")
    text = f"db=eu-central-1:{file}"
    (by_role,) = parsed("--secret-from-kms", text, "--kms-context", "keep=prices")
    ciphertext = base64.b64encode(b"ciphertext").decode()
    context = {"keep": "prices"}
    assert by_role == AwsKmsSource("db", "eu-central-1", ciphertext, InstanceCredentials(), context=context)
    (by_secret,) = parsed("--secret-from-kms", text, "--kms-credentials", "aws")
    assert by_secret.credentials == SecretCredentials("aws")


@pytest.mark.parametrize("text", ["", "db", "db=https://kbs.example", "=https://kbs.example#a/b/c", "db=#a/b/c"])
def test_what_names_no_broker_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected NAME=URL#REPOSITORY/TYPE/TAG"):
        secret_from_kbs(text)


@pytest.mark.parametrize("text", ["db=http://kbs.example#a/b/c", "db=https://kbs.example#a/b", "-db=https://k#a/b/c"])
def test_a_source_that_no_spec_may_have_is_refused_with_its_reason(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected NAME=URL"):
        secret_from_kbs(text)


@pytest.mark.parametrize("text", ["", "db", "db=eu-central-1", "db=:file", "=eu-central-1:file", "db=eu-central-1:"])
def test_what_names_no_file_for_kms_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected NAME=REGION:FILE"):
        secret_from_kms(text)


@pytest.mark.parametrize(
    "arguments", [("--secret-refresh", "1h"), ("--kbs-without-claims",), ("--kms-credentials", "aws")]
)
def test_options_that_say_how_and_not_what_are_refused(arguments: tuple[str, ...]) -> None:
    with pytest.raises(InvalidArgumentError, match="--secret-from-kbs"):
        parsed(*arguments)


def test_roots_that_are_none_are_refused(tmp_path: Path) -> None:
    (roots := tmp_path / "roots.pem").write_text("no certificate")
    with pytest.raises(InvalidArgumentError, match="no certificates in PEM"):
        parsed("--secret-from-kbs", KBS, "--secret-roots", str(roots))


def test_a_source_without_evidence_or_egress_is_refused_before_a_keep_is_made(
    fake: FakeDeployment, keepctl: Program
) -> None:
    done = keepctl("create", "--secret-from-kbs", KBS)
    assert done.returncode == 1
    assert "key broker" in done.stderr
    done = keepctl("create", "--evidence", "simulated", "--secret-from-kbs", KBS)
    assert done.returncode == 1
    assert "`secrets[0].url` needs POST kbs.example:443, which `network.egress` does not allow" in done.stderr
    assert fake.keeps == {}
