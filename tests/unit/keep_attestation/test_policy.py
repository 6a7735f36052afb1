"""Policies in TOML and in Python: every field counts, errors name it, and what is not listed is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keep_attestation.azure.policy import AzurePolicy
from keep_attestation.errors import PolicyError
from keep_attestation.nitro.policy import NitroPolicy
from keep_attestation.policy import MAX_POLICY_SIZE, Policy, load_policy, parse_policy, policy_from
from keep_attestation.sgx.policy import SgxPolicy
from keep_attestation.simulated.policy import SimulatedPolicy
from keep_attestation.snp.policy import SnpPolicy
from keep_attestation.tdx.policy import TdxPolicy
from keep_attestation.tpm.policy import TpmPolicy
from keep_attestation.verdict import Outcome
from keep_protocol.evidence import EvidenceKind

ONE, OTHER = "11" * 32, "22" * 32
SHA384 = "ab" * 48
KINDS: dict[EvidenceKind, str] = {
    EvidenceKind.SNP: f'measurements = ["{SHA384}"]',
    EvidenceKind.TDX: f'mr_td = ["{SHA384}"]',
    EvidenceKind.SGX: f'mr_enclaves = ["{ONE}"]',
    EvidenceKind.NITRO: f'pcrs = {{ 0 = ["{SHA384}"] }}',
    EvidenceKind.TPM: f'pcrs = {{ sha256 = {{ 7 = ["{ONE}"] }} }}',
    EvidenceKind.AZURE_SNP: f'pcrs = {{ sha256 = {{ 7 = ["{ONE}"] }} }}',
    EvidenceKind.AZURE_TDX: f'pcrs = {{ sha256 = {{ 7 = ["{ONE}"] }} }}',
    EvidenceKind.SIMULATED: f'measurements = ["{ONE}"]',
}
SIMULATED_FACTS = {"measurement": ONE, "simulated": True, "report_data": "00" * 64}


def simulated(*alternatives: str) -> Policy:
    return Policy(simulated=tuple(SimulatedPolicy(measurements=(each,)) for each in alternatives))


@pytest.mark.parametrize("kind", EvidenceKind)
def test_a_table_of_a_kind_makes_that_kind_alone_acceptable(kind: EvidenceKind) -> None:
    policy = parse_policy(f"[{kind}]\n{KINDS[kind]}")
    assert policy.kinds == {kind}
    assert len(policy.alternatives(kind)) == 1
    assert policy.name == "unnamed"


def test_several_tables_of_a_kind_are_alternatives() -> None:
    policy = parse_policy(
        f'name = "mine"\n[[simulated]]\nmeasurements = ["{ONE}"]\n[[simulated]]\nmeasurements = ["{OTHER}"]'
    )
    assert policy == msgspec.structs.replace(simulated(ONE, OTHER), name="mine")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[simulated", "the policy is not TOML"),
        ("", "accepts nothing: it needs a table of a kind, one of azure-snp, azure-tdx, nitro, sgx, simulated, snp"),
        ('name = "empty"', "accepts nothing"),
        ("name = 1\n[simulated]", r"\$\.name"),
        ("[sev]", "sev"),
        ("[azure_snp]", "azure_snp"),
        ("[simulated]\nmeasurement = []", "measurement"),
        ('[simulated]\nmeasurements = "ab"', r"\$\.simulated\[0\]\.measurements"),
        ('[simulated]\nmeasurements = ["ab"]', r"simulated\.measurements: 'ab' is no measurement.*simulated\[0\]"),
        (f'[[simulated]]\n[[simulated]]\nmeasurements = ["{ONE.upper()[:-1]}G"]', r"simulated\[1\]"),
        ("[snp]\nmax_vmpl = 4", r"\$\.snp\[0\]\.max_vmpl"),
        ("[snp]\nminimum_tcb = { Rome = {} }", "Rome"),
        ("[snp]\nminimum_tcb = { Milan = { snp = 256 } }", r"\$\.snp\[0\]\.minimum_tcb"),
        ('[tdx]\nmr_td = ["any"]', "mr_td"),
        ('[nitro]\npcrs = { 32 = ["00"] }', "pcrs: '32' is no register"),
        ('[tpm]\npcrs = { sha1 = { 0 = ["00"] } }', "pcrs: 'sha1' is no accepted bank"),
    ],
)
def test_an_error_names_the_field(text: str, named: str) -> None:
    with pytest.raises(PolicyError, match=named):
        parse_policy(text)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("[azure_snp]", "azure-snp"),
        ("[snp]\nmeasurments = []", "measurements"),
        ("[snp]\nmeasurement = []", "measurements"),
        ("[snp]\nminimum_tcb = { Genova = {} }", "Genoa"),
        ("[snp]\nminimum_tcb = { Genoa = { microcode = 1 } }", "ucode"),
        ('[tdx]\ntcb_statuses = ["up-to-date"]', "UpToDate"),
        ("[azure-tdx.tdx]\nmrtd = []", "mr_td"),
        ('[sgx]\n[certificate]\naccept = ["Gramine"]', "gramine"),
        ("[simulated]\n[certificate]\nlifetime_hours = 2", "max_lifetime_hours"),
    ],
)
def test_an_error_says_which_name_may_have_been_meant(text: str, meant: str) -> None:
    with pytest.raises(PolicyError, match=rf"; did you mean `{meant}`\?$"):
        parse_policy(text)


@pytest.mark.parametrize("text", ["[snp]\nqqqq = []", "[snp]\nmax_vmpl = 4"])
def test_an_error_suggests_nothing_where_nothing_is_near(text: str) -> None:
    with pytest.raises(PolicyError) as error:
        parse_policy(text)
    assert "did you mean" not in str(error.value)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([*map(str, EvidenceKind), "name", "other"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=8),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["measurements", "pcrs", "mr_td", "0", "sha256", "x"]), inner, max_size=3
                )
            ),
            max_leaves=8,
        ),
        max_size=4,
    )
)
def test_any_document_is_a_policy_or_raises_our_error(document: dict[str, Any]) -> None:
    try:
        policy = policy_from(document)
    except PolicyError:
        return
    assert policy.kinds


def test_a_kind_that_is_not_listed_is_refused_with_what_is() -> None:
    (check,) = simulated(ONE).appraise(EvidenceKind.SNP, {})
    assert (check.name, check.outcome) == ("policy.kind", Outcome.FAIL)
    assert check.reason == "the policy 'unnamed' does not accept snp evidence: it has no table [snp], but [simulated]"
    (check,) = simulated(ONE).only(EvidenceKind.SNP).appraise(EvidenceKind.SNP, {})
    assert check.reason == "the policy 'unnamed' does not accept snp evidence: it has no table [snp]"


@pytest.mark.parametrize("kind", EvidenceKind)
def test_a_table_without_reference_values_refuses_everything(kind: EvidenceKind) -> None:
    checks = parse_policy(f"[{kind}]").appraise(kind, {})
    assert any(check.outcome is Outcome.FAIL for check in checks)


def test_one_alternative_that_accepts_is_enough_and_its_checks_alone_are_shown() -> None:
    checks = simulated(OTHER, ONE).appraise(EvidenceKind.SIMULATED, SIMULATED_FACTS)
    assert [(check.name, check.outcome) for check in checks] == [("simulated.measurement", Outcome.PASS)]


def test_without_an_accepting_alternative_each_says_what_it_lacks() -> None:
    checks = simulated(OTHER, "33" * 32).appraise(EvidenceKind.SIMULATED, SIMULATED_FACTS)
    assert [(check.name, check.outcome) for check in checks] == [
        ("simulated.measurement (alternative 1)", Outcome.FAIL),
        ("simulated.measurement (alternative 2)", Outcome.FAIL),
    ]


def test_alternatives_are_not_mixed() -> None:
    """Evidence that meets the measurement of one and the other demands of another meets neither."""
    strict = NitroPolicy(pcrs={"0": (SHA384,)}, max_age_seconds=60)
    lax = NitroPolicy(pcrs={"0": ("cd" * 48,)}, max_age_seconds=3600)
    facts = {"pcrs": {"0": SHA384}, "debug_mode": False, "age_seconds": 600}
    assert any(c.outcome is Outcome.FAIL for c in Policy(nitro=(strict, lax)).appraise(EvidenceKind.NITRO, facts))
    within = facts | {"age_seconds": 30}
    assert all(c.outcome is Outcome.PASS for c in Policy(nitro=(strict, lax)).appraise(EvidenceKind.NITRO, within))


def _flipped(default: Any) -> Any:
    """Some other value of the same shape; only the digest looks at it."""
    match default:
        case bool():
            return not default
        case int():
            return default + 1
        case str():
            return default + "x"
        case None:
            return 1
        case tuple():
            return (*default, "x")
        case _:
            return {"x": "x"}


@pytest.mark.parametrize(
    ("field", "kind"),
    [
        ("snp", SnpPolicy),
        ("tdx", TdxPolicy),
        ("sgx", SgxPolicy),
        ("nitro", NitroPolicy),
        ("tpm", TpmPolicy),
        ("azure_snp", AzurePolicy),
        ("azure_tdx", AzurePolicy),
        ("simulated", SimulatedPolicy),
    ],
)
def test_the_digest_changes_with_every_field_of_every_kind(field: str, kind: type[msgspec.Struct]) -> None:
    def digest(alternative: Any) -> str:
        fields: dict[str, Any] = {field: (alternative,)}
        return Policy(**fields).digest

    plain = kind()
    digests = [digest(plain)]
    for name in kind.__struct_fields__:
        changed = kind()
        # Past the checks of values, which are not what is looked at here.
        msgspec.structs.force_setattr(changed, name, _flipped(getattr(plain, name)))
        digests.append(digest(changed))
    assert len(set(digests)) == len(kind.__struct_fields__) + 1


def test_the_digest_changes_with_the_name_the_kind_and_the_order_of_alternatives() -> None:
    policies = [
        simulated(ONE, OTHER),
        simulated(OTHER, ONE),
        msgspec.structs.replace(simulated(ONE, OTHER), name="other"),
        Policy(azure_snp=(AzurePolicy(),)),
        Policy(azure_tdx=(AzurePolicy(),)),
    ]
    assert len({policy.digest for policy in policies}) == len(policies)
    assert simulated(ONE, OTHER).digest == simulated(ONE, OTHER).digest


def test_a_policy_is_read_from_a_file_and_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(f'[simulated]\nmeasurements = ["{ONE}"]')
    assert load_policy(path) == simulated(ONE)
    path.write_text("[simulated]\nx = 1")
    with pytest.raises(PolicyError, match=rf"{path}: .*x"):
        load_policy(path)
    path.write_bytes(b"\xff")
    with pytest.raises(PolicyError, match="cannot be read"):
        load_policy(path)
    path.write_bytes(b"#" * (MAX_POLICY_SIZE + 1))
    with pytest.raises(PolicyError, match=f"more than {MAX_POLICY_SIZE} bytes"):
        load_policy(path)
    with pytest.raises(PolicyError, match="cannot be read"):
        load_policy(tmp_path / "absent.toml")
