"""`keepctl verify` and `keepctl policy init --from` over real evidence, and what they say to bad command lines."""

from __future__ import annotations

import json
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from keep_attestation.policy import parse_policy
from keep_attestation.ratls.presentation import Convention
from testers.keepctl import main
from tests.unit.keep_attestation.ratls.makers import FakeKeep
from tests.unit.keep_attestation.snp.forge import fake_amd

_ROOT = os.environ.get("WASMKEEP_VECTORS", "")
_REASON = "WASMKEEP_VECTORS names no folder with attestation vectors"


def _folders(kind: str) -> list[Any]:
    found = sorted(path.parent for path in Path(_ROOT, kind).glob("*/expected.json")) if _ROOT else []
    if not found:
        return [pytest.param(Path(), marks=pytest.mark.skip(reason=_REASON), id="none")]
    return [pytest.param(path, id=path.name) for path in found]


def _expected(folder: Path) -> Any:
    return json.loads((folder / "expected.json").read_bytes())


def _verify(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    status = main(["verify", *arguments, "--json"])
    output = capsys.readouterr().out
    return status, json.loads(output) if output else None


def _own_policy(capsys: pytest.CaptureFixture[str], folder: Path, output: Path, *arguments: str) -> Path:
    """A policy of the vector's own values."""
    assert main(["policy", "init", "--from", str(folder), "-o", str(output), *arguments]) == 0
    capsys.readouterr()
    return output


@pytest.mark.parametrize("folder", _folders("snp"))
def test_a_report_is_judged_as_expected(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = _expected(folder)
    at = expected["verify"].get("at", "2026-01-01T00:00:00+00:00")
    policy = _own_policy(capsys, folder, tmp_path / "own.toml", "--at", at)
    status, verdict = _verify(capsys, str(folder), "--policy", str(policy), "--at", at)
    decision = expected["verify"]["default_policy"]
    assert status == (0 if decision == "accept" else 1), verdict
    assert verdict["accepted"] is (status == 0)
    assert verdict["facts"]["measurement"] == expected["facts"]["measurement"]
    if "VLEK" in decision:
        allowing = policy.read_text().replace("#vlek_csp_ids = []", f'vlek_csp_ids = ["{expected["csp_id"]}"]')
        # A VLEK names no chip.
        allowing = allowing.replace("#allow_any_milan = false", "allow_any_milan = true")
        policy.write_text(allowing.replace("#max_vmpl = 0", "max_vmpl = 1"))
        assert _verify(capsys, str(folder), "--policy", str(policy), "--at", at)[0] == 0
        assert _verify(capsys, str(folder), "--policy", str(policy), "--at", "2030-01-01")[0] == 1


@pytest.mark.parametrize("folder", [*_folders("tdx"), *_folders("sgx")])
def test_a_quote_is_judged_as_expected(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = _expected(folder)
    results = expected["verify"].get("dcap_qvl_0_7_0", ())
    for number, result in enumerate(results):
        collateral = str(folder.parents[1] / "collateral" / f"{result['collateral']}.json")
        at = str(result["at"])
        own = _own_policy(capsys, folder, tmp_path / f"{number}.toml", "--at", at, "--endorsements", collateral)
        status, verdict = _verify(capsys, str(folder), "--policy", str(own), "--at", at, "--collateral", collateral)
        young = verdict["facts"].get("collateral_age_days", 99) <= 30
        accepted = result["result"] == "verified" and result["tcb_status"] == "UpToDate" and young
        assert status == (0 if accepted else 1), verdict
        if result["result"] == "verified":
            assert verdict["facts"]["tcb_status"] == result["tcb_status"]
    if not results:
        assert _verify(capsys, str(folder), "--policy", str(_production(tmp_path)))[0] == 1


@pytest.mark.parametrize("folder", _folders("nitro"))
def test_a_document_is_judged_as_expected(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = _expected(folder)
    milliseconds = expected.get("verify", {}).get("at_ms")
    if milliseconds is None:
        assert _verify(capsys, str(folder), "--policy", str(_production(tmp_path)))[0] in (1, 2)
        return
    at = datetime.fromtimestamp(milliseconds / 1000 + 1, UTC)
    policy = _own_policy(capsys, folder, tmp_path / "own.toml", "--at", at.isoformat())
    decision = expected["verify"]["default_policy"]
    status, verdict = _verify(capsys, str(folder), "--policy", str(policy), "--at", at.isoformat())
    assert status == (0 if decision.startswith("accept") else 1), verdict
    later = (at + timedelta(hours=4)).isoformat()
    assert _verify(capsys, str(folder), "--policy", str(policy), "--at", later)[0] == 1
    if nonce := expected["facts"].get("nonce"):
        other = nonce[:-2] + ("00" if nonce[-2:] != "00" else "11")
        bound = ["--policy", str(policy), "--at", at.isoformat(), "--nonce"]
        assert _verify(capsys, str(folder), *bound, nonce)[0] == status
        refused, document = _verify(capsys, str(folder), *bound, other)
        assert refused == 1
        assert "nitro.binding" in {each["name"] for each in document["checks"] if each["outcome"] == "fail"}


@pytest.mark.parametrize("folder", [*_folders("tpm"), *_folders("azure-vtpm")])
def test_a_tpms_quote_is_judged_by_its_own_values(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = _expected(folder)
    at = "2026-12-01"
    if main(["policy", "init", "--from", str(folder), "-o", str(tmp_path / "own.toml"), "--at", at]) != 0:
        assert "missing" in capsys.readouterr().err
        assert not list(folder.glob("ak_pub.*"))
        return
    arguments = ["--policy", str(tmp_path / "own.toml"), "--at", at, "--nonce"]
    status, verdict = _verify(capsys, str(folder), *arguments, expected["facts"]["nonce"])
    failures = {each["name"] for each in verdict["checks"] if each["outcome"] == "fail"}
    # Nothing to compare with in a SHA-1 bank, no maker of a software TPM, no collateral for the TD quote.
    excused = {"tpm.pcrs", "tpm.trust", "tdx.collateral", "tdx.tcb_status", "tdx.tcb_evaluation_number"}
    excused |= {"tdx.collateral_age", "tdx.sept_ve_disable"}
    # A key without what its TPM says of it is of no use, and its signature can be checked all the same.
    plain_key = not (folder / "hcl_report.bin").exists() and not (folder / "ak_pub.tpmt").exists()
    assert ("tpm.ak" in failures) is plain_key
    assert failures - {"tpm.ak"} <= excused
    assert (status == 0) is (not failures)
    refused, verdict = _verify(capsys, str(folder), *arguments, "00")
    assert refused == 1
    assert {"tpm.binding", "azure.binding"} & {each["name"] for each in verdict["checks"] if each["outcome"] == "fail"}


def test_what_cannot_be_demanded_of_bare_evidence_is_an_error_and_not_ignored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (report := tmp_path / "report.bin").write_bytes(fake_amd().vcek().report())
    assert main(["verify", str(report), "--spec", "00" * 32]) != 0
    assert "names no spec: leave --spec out" in capsys.readouterr().err


def test_the_spec_in_a_certificate_is_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep = FakeKeep()
    (certificate := tmp_path / "keep.der").write_bytes(keep.certificate())
    status, verdict = _verify(capsys, str(certificate), "--spec", "00" * 32)
    assert status == 1
    failed = {each["name"] for each in verdict["checks"] if each["outcome"] == "fail"}
    assert "ratls.spec" in failed
    assert main(["verify", str(certificate), "--nonce", "00" * 32]) != 0
    assert "leave --nonce out" in capsys.readouterr().err
    assert main(["verify", str(certificate), "--report-data", "00" * 64]) != 0
    assert "leave --report-data out" in capsys.readouterr().err


@pytest.mark.parametrize("folder", _folders("ratls"))
def test_certificates_of_others_are_refused_for_their_debug_enclaves(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    conventions = ["--convention", "gramine", "--convention", "tcg-dice"]
    policy = _own_policy(capsys, folder / "cert.pem", tmp_path / "own.toml", *conventions)
    arguments = [str(folder / "cert.pem"), "--policy", str(policy), *conventions, "--max-lifetime", "11000d"]
    status, verdict = _verify(capsys, *arguments, "--at", "2023-06-01")
    failures = {each["name"] for each in verdict["checks"] if each["outcome"] == "fail"}
    assert status == 1
    assert "sgx.debug" in failures
    assert not {name for name in failures if name.startswith("ratls.")}
    assert main(["verify", str(folder / "cert.pem"), "--policy", str(_production(tmp_path))]) == 2
    assert "not accepted" in capsys.readouterr().err
    # What the command line named when the policy was written is in it, and nothing else is.
    assert parse_policy(policy.read_text()).certificate.accept == {
        Convention.KEEP_EVIDENCE,
        Convention.GRAMINE,
        Convention.TCG_DICE,
    }
    status, verdict = _verify(capsys, str(folder / "cert.pem"), "--policy", str(policy), "--at", "2023-06-01")
    assert status == 1
    assert "ratls.lifetime" in {each["name"] for each in verdict["checks"] if each["outcome"] == "fail"}


def _production(tmp_path: Path) -> Path:
    path = tmp_path / "production.toml"
    path.write_text("[snp]\n[tdx]\n[sgx]\n[nitro]\n[tpm]\n[azure-snp]\n")
    return path


@pytest.mark.skipif(not _ROOT, reason=_REASON)
def test_without_a_policy_all_is_shown_and_nothing_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    report = sorted(Path(_ROOT, "snp").glob("*/report.bin"))[0]
    assert main(["verify", str(report)]) == 1
    shown = capsys.readouterr()
    assert shown.out.startswith("REFUSED  snp evidence, judged at ")
    assert "FAIL  policy.missing" in shown.out
    assert "pass  snp.signature" in shown.out
    assert f"keepctl policy init --from {report}" in shown.err


@pytest.mark.parametrize("folder", [*_folders("tpm"), *_folders("azure-vtpm")])
def test_evidence_is_bound_to_what_was_named_only_where_something_was(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = "bound to      what you named"
    if main(["verify", str(folder)]) == 2:
        assert not list(folder.glob("ak_pub.*"))
        return
    assert named not in capsys.readouterr().out
    assert main(["verify", str(folder), "--nonce", _expected(folder)["facts"]["nonce"]]) == 1
    assert named in capsys.readouterr().out


@pytest.mark.skipif(not _ROOT, reason=_REASON)
def test_report_data_are_compared_with_the_zeros_behind_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = next(
        path
        for path in sorted(Path(_ROOT, "snp").iterdir())
        if _expected(path)["verify"]["default_policy"] == "accept"
        and _expected(path)["facts"]["report_data"].endswith("00" * 32)
    )
    expected = _expected(folder)
    own = str(_own_policy(capsys, folder, tmp_path / "own.toml", "--at", expected["verify"]["at"]))
    arguments = [str(folder), "--policy", own, "--at", expected["verify"]["at"], "--report-data"]
    assert _verify(capsys, *arguments, expected["facts"]["report_data"][:64])[0] == 0
    assert _verify(capsys, *arguments, expected["facts"]["report_data"][:62])[0] in (0, 1)
    assert _verify(capsys, *arguments, "11" * 32)[0] == 1
    assert main(["verify", str(folder), "--nonce", "00"]) == 2
    assert "use --report-data" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "cannot be read"),
        (["file"], "is no evidence that is known"),
        (["file", "--at", "yesterday"], "write it as 2026"),
        (["file", "--policy", "nothing.toml"], "cannot be read"),
        (["file", "--convention", "other"], "known are"),
        (["."], "holds no evidence"),
    ],
)
def test_what_cannot_be_used_ends_with_two(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(b"hello")
    assert main(["verify", *arguments]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.skipif(not _ROOT, reason=_REASON)
def test_names_in_evidence_do_not_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = sorted(Path(_ROOT, "snp").glob("*/report.bin"))[0]
    shutil.copy(report, disguised := tmp_path / "re\x1b[2Jport.bin")
    main(["verify", str(disguised)])
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err
    assert main(["policy", "init", "--from", str(disguised)]) == 0
    policy = capsys.readouterr().out
    assert "\x1b" not in policy
    assert parse_policy(policy).kinds == {"snp"}
