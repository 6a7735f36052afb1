"""A verdict for people: what was decided, every check with its reason, and what the evidence says."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from keep_attestation.verdict import Freshness, Outcome, Verdict
from keep_protocol.evidence import Claims, EvidenceKind
from testers.deployment import printable

_FRESHNESS = {
    Freshness.UNBOUND: "nothing that you named: genuine, but anybody may hold a copy (--nonce, --report-data)",
    Freshness.KEY: "a key: whoever holds it is what the evidence says, or was when it was made",
    Freshness.CONNECTION: "our nonce and this very TLS connection",
}
_OUTCOMES = {Outcome.PASS: "pass", Outcome.FAIL: "FAIL", Outcome.NOTE: "note"}

_HARDWARE = {
    EvidenceKind.SNP: (
        *("product", "processor", "endorsement_key", "csp_id", "measurement", "host_data", "report_data", "chip_id"),
        *("vmpl", "debug", "version", "reported_tcb", "cur_ver", "revocation_checked"),
    ),
    EvidenceKind.TDX: (
        *("mr_td", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mr_config_id", "report_data", "mr_seam", "td_attributes"),
        *("debug", "tcb_status", "advisories", "tcb_evaluation_number", "collateral_age_days", "fmspc", "ppid"),
        "log_replayed",
    ),
    EvidenceKind.SGX: (
        *("mr_enclave", "mr_signer", "isv_prod_id", "isv_svn", "report_data", "debug", "tcb_status", "advisories"),
        *("tcb_evaluation_number", "collateral_age_days", "fmspc", "ppid"),
    ),
    EvidenceKind.NITRO: (
        *("module_id", "timestamp_ms", "age_seconds", "debug_mode", "pcrs", "user_data", "public_key", "nonce"),
    ),
    EvidenceKind.TPM: (
        *("ak_name", "ak_root", "ek_root", "nonce", "pcrs", "firmware", "reset_count", "safe", "log_replayed"),
        *("google_project", "google_zone", "google_instance"),
    ),
    EvidenceKind.AZURE_SNP: ("tee", "nonce", "pcrs", "vm_configuration", "snp"),
    EvidenceKind.AZURE_TDX: ("tee", "nonce", "pcrs", "vm_configuration", "tdx"),
    EvidenceKind.SIMULATED: ("measurement", "report_data"),
}
"""What people look at first; machines get all facts."""
_PARTS = {"snp": EvidenceKind.SNP, "tdx": EvidenceKind.TDX}
_WIDTH = 116
_NAME_WIDTH = 28


def verdict_lines(verdict: Verdict, *, files: Iterable[Path] = (), claims: Claims | None = None) -> list[str]:
    """The verdict, line by line; everything in it may come from an attacker, so nothing steers a terminal."""
    title = f"{'ACCEPTED' if verdict.accepted else 'REFUSED'}  {verdict.kind} evidence"
    lines = [f"{title}, judged at {_date(verdict.at)}"]
    names = [path.name for path in files]
    if names:
        lines.append(_field("read from", ", ".join(names)))
    lines.append(_field("bound to", _bound_to(verdict)))
    lines.append(_field("endorsements", _collateral(verdict)))
    if verdict.kind is EvidenceKind.SIMULATED:
        lines.append(_field("beware", "simulated: anybody can make it, and it proves nothing about any hardware"))
    lines.append("")
    for check in verdict.checks:
        lines += _wrapped(f"{_OUTCOMES[check.outcome]}  {check.name.ljust(_NAME_WIDTH)}", check.reason)
    if claims is not None:
        lines += ["", "claims (what the keep binds into its evidence)", *_claims(claims)]
    if verdict.facts:
        shown = _HARDWARE[verdict.kind]
        lines += ["", "facts", *_facts(verdict.facts, shown)]
        if more := len([name for name in verdict.facts if name not in shown]):
            lines.append(f"  and {more} more with --json")
    return [printable(line) for line in lines]


def _bound_to(verdict: Verdict) -> str:
    bindings = [check.outcome for check in verdict.checks if check.name.endswith(".binding")]
    # Azure's has two, and the one inside, of the hardware to the virtual TPM, was demanded by nobody.
    if verdict.freshness is Freshness.UNBOUND and bindings and all(each is Outcome.PASS for each in bindings):
        return "what you named"
    return _FRESHNESS[verdict.freshness]


def _facts(facts: Mapping[str, Any], names: Iterable[str], indent: str = "  ") -> list[str]:
    lines: list[str] = []
    for name in names:
        value = facts.get(name)
        if name not in facts or value is None:
            continue
        if name in _PARTS and isinstance(value, Mapping):
            lines += [f"{indent}{name}:", *_facts(value, _HARDWARE[_PARTS[name]], indent + "  ")]
        elif isinstance(value, Mapping):
            lines += [f"{indent}{name}:", *_mapping(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name.ljust(_NAME_WIDTH)}{_value(value)}")
    return lines


def _mapping(value: Mapping[str, Any], indent: str) -> list[str]:
    lines: list[str] = []
    for name, item in value.items():
        if isinstance(item, Mapping):
            lines += [f"{indent}{name}:", *_mapping(item, indent + "  ")]
        elif not isinstance(item, str) or item.strip("0"):
            # Registers that nobody extended say nothing.
            lines.append(f"{indent}{name.ljust(5)} {_value(item)}")
    return lines


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return "zero" if isinstance(value, str) and len(value) > 16 and not value.strip("0") else str(value)


def _claims(claims: Claims) -> list[str]:
    workload = "none is loaded" if claims.workload_sha256 is None else claims.workload_sha256.hex()
    fields = {
        "keep": claims.keep,
        "backend": claims.backend,
        "spec": claims.spec_sha256.hex(),
        "workload": workload,
        "configuration": None if claims.configuration_sha256 is None else claims.configuration_sha256.hex(),
        "key": claims.spki_sha256.hex(),
        "nonce": None if claims.nonce is None else claims.nonce.hex(),
    }
    return [f"  {name.ljust(_NAME_WIDTH)}{value}" for name, value in fields.items() if value is not None]


def _collateral(verdict: Verdict) -> str:
    dates = verdict.collateral
    if dates.not_before is None or dates.not_after is None:
        return "none were judged"
    number = "" if dates.evaluation_number is None else f", TCB evaluation number {dates.evaluation_number}"
    return f"valid from {_date(dates.not_before)} to {_date(dates.not_after)}{number}"


def _date(moment: Any) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _field(name: str, text: str) -> str:
    return f"  {name.ljust(14)}{text}"


def _wrapped(start: str, text: str) -> list[str]:
    indent = " " * (len(start) + 1)
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=f"{start} ",
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=False,
    ) or [start]
