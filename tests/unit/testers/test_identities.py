"""Tests of `testers.keepctl.identities`."""

from __future__ import annotations

import json
import stat
from pathlib import Path

from cryptography import x509

from keep_client.specs import spiffe_id_of
from tests.unit.testers.conftest import Program


def test_a_new_identity_is_a_key_and_a_request(keepctl: Program, tmp_path: Path) -> None:
    done = keepctl("identity", "new", "alice", "--domain", "example.net", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {
        "spiffe_id": "spiffe://example.net/user/alice",
        "key": "alice.key",
        "request": "alice.csr",
    }
    assert stat.S_IMODE((tmp_path / "alice.key").stat().st_mode) == 0o600
    assert x509.load_pem_x509_csr((tmp_path / "alice.csr").read_bytes()).is_signature_valid


def test_the_domain_is_that_of_the_deployment(keepctl: Program, tmp_path: Path) -> None:
    done = keepctl("identity", "new", "bob", "--self-signed", "--lifetime", "1h")
    assert done.returncode == 0
    certificate = x509.load_pem_x509_certificate((tmp_path / "bob.pem").read_bytes())
    assert spiffe_id_of(certificate) == "spiffe://example.org/user/bob"
    assert (certificate.not_valid_after_utc - certificate.not_valid_before_utc).total_seconds() == 3900


def test_no_key_is_ever_overwritten(keepctl: Program, tmp_path: Path) -> None:
    keepctl("identity", "new", "alice")
    before = (tmp_path / "alice.key").read_bytes()
    for arguments in (["alice"], ["alice", "--self-signed"]):
        done = keepctl("identity", "new", *arguments)
        assert (done.returncode, "exists already" in done.stderr) == (1, True)
    assert (tmp_path / "alice.key").read_bytes() == before
    assert not (tmp_path / "alice.pem").exists()


def test_a_name_that_makes_no_spiffe_id_is_refused(keepctl: Program, tmp_path: Path) -> None:
    for name in ("../alice", "al ice", "spiffe://example.org"):
        assert "is not a SPIFFE id" in keepctl("identity", "new", name).stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home"]
