"""Policy files with the meaning of every field beside it, for people who have never seen one."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from keep_attestation.azure.policy import AzurePolicy
from keep_attestation.nitro.policy import NitroPolicy
from keep_attestation.ratls.policy import CertificatePolicy
from keep_attestation.ratls.presentation import Convention
from keep_attestation.sgx.policy import SgxPolicy
from keep_attestation.simulated.policy import SimulatedPolicy
from keep_attestation.snp.policy import RECOMMENDED_MINIMUM_TCB, RECOMMENDED_PLATFORM, SnpPolicy
from keep_attestation.tdx.policy import TdxPolicy
from keep_attestation.tpm.policy import TpmPolicy
from keep_protocol.evidence import EvidenceKind
from testers.keepctl.attestation.field_documentation import field_documentation
from testers.keepctl.attestation.toml_text import key, table, value

POLICY_TYPES: Mapping[EvidenceKind, type[msgspec.Struct]] = {
    EvidenceKind.SNP: SnpPolicy,
    EvidenceKind.TDX: TdxPolicy,
    EvidenceKind.SGX: SgxPolicy,
    EvidenceKind.NITRO: NitroPolicy,
    EvidenceKind.TPM: TpmPolicy,
    EvidenceKind.AZURE_SNP: AzurePolicy,
    EvidenceKind.AZURE_TDX: AzurePolicy,
    EvidenceKind.SIMULATED: SimulatedPolicy,
}

_RECOMMENDED_SNP: dict[str, Any] = {
    "measurements": [],
    "required_platform": [demand.value for demand in RECOMMENDED_PLATFORM],
    "minimum_tcb": {
        processor.value: {name: level for name, level in msgspec.structs.asdict(tcb).items() if level}
        for processor, tcb in RECOMMENDED_MINIMUM_TCB.items()
    },
}
_RECOMMENDED_TDX: dict[str, Any] = {name: [] for name in ("mr_td", "rtmr0", "rtmr1", "rtmr2", "rtmr3")}

RECOMMENDED: Mapping[EvidenceKind, dict[str, Any]] = {
    EvidenceKind.SNP: _RECOMMENDED_SNP,
    EvidenceKind.TDX: _RECOMMENDED_TDX,
    EvidenceKind.SGX: {"mr_enclaves": []},
    EvidenceKind.NITRO: {"pcrs": {"0": [], "1": [], "2": []}},
    EvidenceKind.TPM: {"pcrs": {"sha256": {"0": [], "4": [], "7": []}}},
    EvidenceKind.AZURE_SNP: {"pcrs": {"sha256": {"4": [], "7": []}}, "snp": _RECOMMENDED_SNP},
    EvidenceKind.AZURE_TDX: {"pcrs": {"sha256": {"4": [], "7": []}}, "tdx": _RECOMMENDED_TDX},
    EvidenceKind.SIMULATED: {"measurements": []},
}
"""What a file for a kind begins with: the reference values, to be filled in, and what AMD and Intel advise now."""

_SOURCES = {
    "minimum_tcb": "Levels: AMD-SB-3019 (EntrySign) asks for SNP 0x18 on Milan and 0x17 on Genoa, Bergamo and Siena; "
    "for Turin no bulletin names one. Look for newer ones at amd.com/en/resources/product-security.html",
    "required_platform": "alias_check_complete: AMD-SB-3015 (BadRAM).",
    "minimum_tcb_evaluation_number": "17 is of 2024-11; raise it after each TCB recovery event of Intel.",
}
_WIDTH = 116


def policy_document(
    name: str,
    tables: Sequence[tuple[EvidenceKind, Mapping[str, Any]]],
    *,
    about: str = "",
    certificate: Mapping[str, Any] | None = None,
) -> str:
    """A policy in TOML. Fields that `tables` do not set stand there as comments, with their defaults."""
    text = _comment(
        "A policy of wasmkeep: what evidence must say to be accepted. What no table here accepts is refused, and so is "
        "everything of a kind without reference values. Lines that begin with #name show defaults. Several "
        "[[kind]] tables are alternatives. Read it back with `keepctl policy explain`, and compare two with "
        "`keepctl policy diff`."
    )
    if about:
        text += "#\n" + _comment(about)
    text += f"\nname = {value(name)}\n"
    for kind, values in tables:
        text += f"\n[{kind.value}]\n" + _table(POLICY_TYPES[kind], values, (kind.value,))
        if kind is EvidenceKind.SIMULATED:
            text = text.replace(
                "\n[simulated]\n",
                "\n# Simulated evidence proves nothing: anybody can make it. This table belongs in development only.\n"
                "[simulated]\n",
            )
    words = "Of certificates that bear evidence, whatever its kind. Conventions of others are accepted by name only:"
    text += "\n" + _comment(f"{words} {', '.join(Convention)}.")
    return text + "[certificate]\n" + _table(CertificatePolicy, certificate or {}, ("certificate",))


def _table(struct: type[msgspec.Struct], values: Mapping[str, Any], path: tuple[str, ...]) -> str:
    documentation = field_documentation(struct)
    text = tables = ""
    for field in msgspec.structs.fields(struct):
        words = " ".join(filter(None, (documentation.get(field.name), _SOURCES.get(field.name))))
        about = _comment(words) if words else ""
        item = values.get(field.name)
        if isinstance(item, Mapping):
            tables += "\n" + about + _sub_tables(field.name, item, path)
        elif item is not None:
            text += f"{about}{key(field.name)} = {value(item)}\n"
        elif (default := _default(field)) != "":
            text += about + "".join(f"#{line}\n" for line in f"{key(field.name)} = {default}".splitlines())
        elif words:
            text += f"{about}# {key(field.name)}: left out\n"
    return text + tables


def _sub_tables(name: str, item: Mapping[str, Any], path: tuple[str, ...]) -> str:
    below = (*path, name)
    if name in ("snp", "tdx"):
        return f"[{table(below)}]\n" + _table(POLICY_TYPES[EvidenceKind(name)], item, below)
    plain = {key_: each for key_, each in item.items() if not isinstance(each, Mapping)}
    text = f"[{table(below)}]\n" if plain else ""
    text += "".join(f"{key(key_)} = {value(each)}\n" for key_, each in plain.items())
    for key_, each in item.items():
        if isinstance(each, Mapping):
            text += f"[{table((*below, key_))}]\n"
            text += "".join(f"{key(inner)} = {value(level)}\n" for inner, level in each.items())
    return text


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.default_factory is not msgspec.NODEFAULT:
        return ""
    return value(msgspec.to_builtins(field.default, order="deterministic"))


def _comment(text: str) -> str:
    return "".join(f"# {line}\n" for line in textwrap.wrap(text, _WIDTH - 2, break_on_hyphens=False))
