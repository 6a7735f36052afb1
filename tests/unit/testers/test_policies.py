"""`keepctl policy`: files that explain themselves, policies in words, and what two differ in."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from keep_attestation.policy import Policy, parse_policy
from keep_protocol.evidence import EvidenceKind
from testers.keepctl import main
from testers.keepctl.attestation.field_documentation import field_documentation
from testers.keepctl.attestation.policy_document import POLICY_TYPES
from testers.keepctl.attestation.policy_words import difference
from testers.keepctl.attestation.toml_text import toml_document


def _init(capsys: pytest.CaptureFixture[str], *kinds: str) -> str:
    assert main(["policy", "init", *kinds]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("kind", EvidenceKind)
def test_a_new_policy_is_valid_accepts_nothing_yet_and_names_every_field(
    kind: EvidenceKind, capsys: pytest.CaptureFixture[str]
) -> None:
    text = _init(capsys, kind)
    policy = parse_policy(text)
    assert policy.kinds == {kind}
    assert any(check.outcome == "fail" for check in policy.appraise(kind, {}))
    for field in field_documentation(POLICY_TYPES[kind]):
        assert field in text
    # What is commented out is the default, and can be put in force as it stands.
    in_force = "\n".join(line.removeprefix("#") if line[1:2] != " " else line for line in text.splitlines())
    tomllib.loads(in_force)


def test_recommended_levels_come_with_their_source(capsys: pytest.CaptureFixture[str]) -> None:
    text = _init(capsys, "snp")
    assert "AMD-SB-3019" in text
    assert tomllib.loads(text)["snp"]["minimum_tcb"]["Milan"] == {"snp": 0x18}


def test_a_file_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "production.toml"
    assert main(["policy", "init", "nitro", "-o", str(path)]) == 0
    assert parse_policy(path.read_text()).name == "production"
    assert main(["policy", "init", "nitro", "-o", str(path)]) == 1
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["init"], ["init", "sev"], ["init", "snp", "--from", "x"], ["explain", "x"]])
def test_what_cannot_be_used_is_said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", *arguments]) == 1
    assert capsys.readouterr().err.startswith("keepctl: ")


def test_explain_says_what_is_demanded_and_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path := tmp_path / "p.toml").write_text('[snp]\nmeasurements = ["' + "ab" * 48 + '"]\nmax_vmpl = 2\n[simulated]\n')
    assert main(["policy", "explain", str(path)]) == 0
    text = capsys.readouterr().out
    assert "refused before they are parsed: tdx, sgx, nitro, tpm, azure-snp, azure-tdx" in text
    assert f"measurement is {'ab' * 48}" in text
    assert "vmpl is at most 2" in text
    assert "the policy names no allowed value" in text
    assert "Anybody can make simulated evidence" in text
    assert main(["policy", "explain", str(path), "--json"]) == 0
    checks = {each["check"] for each in json.loads(capsys.readouterr().out)["accepted"]["snp"][0]}
    assert {"snp.measurement", "snp.vmpl", "snp.debug", "snp.chip_allowed"} <= checks


def _snp(fields: str) -> Policy:
    return parse_policy(f'[snp]\nmeasurements = ["{"ab" * 48}"]\n{fields}')


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("", "allow_debug = true", "no longer demanded: debug is not set"),
        ("", "max_vmpl = 1", "vmpl is at most 1 (was: vmpl is at most 0)"),
        ("", 'vlek_csp_ids = ["CN=x"]', "VLEKs of CN=x"),
        (f'host_data = ["{"11" * 32}"]', f'host_data = ["{"11" * 32}", "{"22" * 32}"]', "host_data 2222"),
        ("[snp.minimum_tcb.Milan]\nsnp = 24", "[snp.minimum_tcb.Milan]\nsnp = 8", "snp at least 0x8 (was: 0x18)"),
        ("[snp.minimum_tcb.Milan]\nsnp = 24", "", "reported_tcb is not judged"),
        (f'chip_ids = ["{"11" * 64}"]', "", "chips that are not named"),
        (f'chip_ids = ["{"11" * 64}"]', f'chip_ids = ["{"11" * 64}", "{"22" * 64}"]', "chip 2222"),
        ("", "[nitro]\npcrs = { 0 = [] }", "nitro: evidence of this kind"),
        ("minimum_guest_svn = 2", "minimum_guest_svn = 1", "guest_svn is at least 1"),
    ],
)
def test_what_widens_a_policy_one_way_narrows_it_the_other(first: str, second: str, words: str) -> None:
    widened = difference(_snp(first), _snp(second))
    assert any(words in line for line in widened.wider), widened
    assert widened.narrower == widened.changed == ()
    narrowed = difference(_snp(second), _snp(first))
    assert narrowed.narrower
    assert narrowed.wider == narrowed.changed == ()


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("", 'accept = ["keep-evidence-v1", "gramine"]', "certificate: evidence by gramine"),
        ("", "max_lifetime_hours = 48", "certificate: the certificate's lifetime in hours is at most 48 (was: 24)"),
        ('key_types = ["P-384"]', 'key_types = ["P-384", "P-256"]', "certificate: keys of type P-256"),
        ("max_evidence_age_hours = 1", "", "the age of claims in it, in hours, is at most 24 (was: 1)"),
        ("", "clock_skew_seconds = 600", "is at most 600 (was: 300)"),
    ],
)
def test_what_is_demanded_of_certificates_is_compared_too(first: str, second: str, words: str) -> None:
    test_what_widens_a_policy_one_way_narrows_it_the_other(f"[certificate]\n{first}", f"[certificate]\n{second}", words)


def test_certificates_are_explained_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path := tmp_path / "p.toml").write_text('[sgx]\n[certificate]\naccept = ["gramine"]\nmax_lifetime_hours = 9000\n')
    assert main(["policy", "explain", str(path)]) == 0
    text = capsys.readouterr().out
    assert "evidence comes by gramine" in text
    assert "the certificate's lifetime in hours is at most 9000" in text
    assert main(["policy", "explain", str(path), "--json"]) == 0
    certificate = json.loads(capsys.readouterr().out)["certificate"]
    assert (certificate["accept"], certificate["key_types"]) == (["gramine"], ["P-256", "P-384", "RSA"])


def test_diff_ends_with_one_when_the_second_accepts_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (strict := tmp_path / "a.toml").write_text("[snp]\n")
    (lax := tmp_path / "b.toml").write_text("[snp]\nallow_debug = true\n")
    assert main(["policy", "diff", str(strict), str(lax)]) == 1
    assert "accepts, " in capsys.readouterr().out
    assert main(["policy", "diff", str(lax), str(strict)]) == 0
    assert main(["policy", "diff", str(lax), str(lax)]) == 0
    assert capsys.readouterr().out.endswith("both accept the same\n")


def test_toml_comes_back_as_it_went() -> None:
    document = {
        "name": 'quote " back \\ line \n delete \x7f é',
        "flag": True,
        "number": -3,
        "list": ["a" * 60, "b" * 60],
        "azure-snp": [{"pcrs": {"sha256": {"0": ["00"]}}}, {"pcrs": {}}],
        "table": {"inner key": {"x": 1}},
    }
    assert tomllib.loads(toml_document(document)) == document
