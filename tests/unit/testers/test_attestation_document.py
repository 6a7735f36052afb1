"""docs/attestation.md is complete: every check that a verdict can have is explained there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import keep_attestation
from keep_attestation.azure.policy import AzurePolicy
from keep_attestation.intel.policy import PlatformPolicy
from keep_attestation.nitro.policy import NitroPolicy
from keep_attestation.policy import KindPolicy
from keep_attestation.ratls.presentation import Convention
from keep_attestation.sgx.policy import SgxPolicy
from keep_attestation.snp.policy import SnpPolicy
from keep_attestation.tdx.policy import TdAttributeName, TdxPolicy
from keep_attestation.tpm.policy import TpmPolicy
from keep_protocol.evidence import EvidenceKind
from testers.keepctl.attestation.policy_words import demands

PACKAGE = Path(keep_attestation.__file__).parent
DOCUMENT = Path(__file__).resolve().parents[3].joinpath("docs", "attestation.md").read_text(encoding="utf-8")
_PREFIXES = "snp|tdx|sgx|nitro|tpm|azure|ratls|simulated|policy"
_NAME = re.compile(rf"(?:{_PREFIXES})\.[a-z0-9_-]+")
_ANY_KIND = {"intel": ("tdx", "sgx"), "tpm": ("tpm", "azure")}
_METHODS = {"expect", "ok", "fail", "note"}

_EVERYTHING: tuple[KindPolicy, ...] = (
    SnpPolicy(
        minimum_launch_tcb={},
        allow_smt=False,
        host_data=("00" * 32,),
        id_key_digests=("00" * 48,),
        author_key_digests=("00" * 48,),
        family_ids=("00" * 16,),
        image_ids=("00" * 16,),
        minimum_guest_svn=1,
        minimum_firmware="1.55",
        minimum_abi="1.55",
        allow_provisional_firmware=False,
        required_launch_mitigations=1,
    ),
    TdxPolicy(
        forbidden_attributes=tuple(name for name in TdAttributeName if name != "debug"),
        mr_seam=("00" * 48,),
        xfam=("00" * 8,),
        require_event_log=True,
        ppids=("00" * 16,),
        fmspcs=("00" * 6,),
        tolerated_advisories=(),
    ),
    SgxPolicy(mr_enclaves=("00" * 32,), mr_signers=("00" * 32,), isv_prod_id=0, minimum_isv_svn=0),
    NitroPolicy(instance_ids=("i",), role_arns=("r",), module_ids=("m",)),
    TpmPolicy(
        pcrs={"sha256": {"0": ()}},
        google_projects=("p",),
        firmware_versions=("0x1",),
        require_safe_clock=True,
        minimum_reset_count=1,
    ),
    AzurePolicy(tdx=TdxPolicy(), pcrs={"sha256": {"0": ()}}, vm_ids=("v",), require_event_log=True),
)


def _names() -> Iterator[str]:
    """Names of checks as the verifiers' sources spell them, those with the kind as a variable for each kind."""
    for path in PACKAGE.rglob("*.py"):
        family = path.relative_to(PACKAGE).parts[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Constant(value=str(text)) if _NAME.fullmatch(text):
                    yield text
                case (
                    ast.Call(
                        func=ast.Attribute(attr=method), args=[ast.JoinedStr(values=[_, ast.Constant(value=str(end))])]
                    )
                    | ast.Call(
                        func=ast.Attribute(attr=method),
                        args=[ast.JoinedStr(values=[_, ast.Constant(value=str(end))]), *_],
                    )
                ) if method in _METHODS and family in _ANY_KIND:
                    yield from (f"{kind}{end}" for kind in _ANY_KIND[family])


@pytest.mark.parametrize("name", sorted(set(_names())))
def test_every_check_in_the_sources_is_explained(name: str) -> None:
    assert f"`{name}`" in DOCUMENT or f"`{name.rstrip('0123456789')}`" in DOCUMENT


@pytest.mark.parametrize("policy", _EVERYTHING, ids=lambda policy: type(policy).__name__)
def test_every_demand_of_a_policy_is_explained(policy: KindPolicy) -> None:
    names = {re.sub(r"(pcr)\d+$", r"\1", demand.check_name) for demand in demands(policy.rules())}
    assert [name for name in names if f"`{name}`" not in DOCUMENT] == []


def test_the_platforms_demands_are_among_them() -> None:
    assert issubclass(TdxPolicy, PlatformPolicy)
    assert {f"`{kind}.{what}`" for kind in ("tdx", "sgx") for what in ("ppid", "fmspc", "advisories")} <= set(
        re.findall(r"`[^`]*`", DOCUMENT)
    )


@pytest.mark.parametrize("word", [*EvidenceKind, *Convention])
def test_every_kind_and_every_convention_is_named(word: str) -> None:
    assert f"`{word}`" in DOCUMENT
