"""Whether a policy accepts the enclaves that it names, and no others."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from keep_attestation.nitro.policy import NitroPolicy, measured_name
from keep_attestation.nitro.verifier import examine_nitro
from keep_attestation.verdict import Outcome
from tests.unit.keep_attestation.nitro.forge import MADE_AT, Module, nitro_evidence

PCR0 = "01" * 48
FACTS = {
    "pcrs": {"0": PCR0, "1": "02" * 48, "3": measured_name("arn:aws:iam::1:role/r"), "4": measured_name("i-01")},
    "debug_mode": False,
    "age_seconds": 10,
    "module_id": "i-01-enc02",
}


def refused(policy: NitroPolicy, facts: dict[str, Any] = FACTS) -> set[str]:
    return {check.name for rule in policy.rules() if (check := rule.check(facts)).outcome is Outcome.FAIL}


def test_the_image_that_a_policy_names_is_accepted() -> None:
    assert refused(NitroPolicy(pcrs={"0": (PCR0,)})) == set()


def test_without_a_reference_value_for_the_image_everything_is_refused() -> None:
    assert refused(NitroPolicy()) == {"nitro.pcr0"}
    assert refused(NitroPolicy(pcrs={"1": ("02" * 48,)})) == {"nitro.pcr0"}
    assert refused(NitroPolicy(pcrs={"0": ()})) == {"nitro.pcr0"}


def test_every_register_that_a_policy_names_must_hold_an_allowed_value() -> None:
    assert refused(NitroPolicy(pcrs={"0": (PCR0,), "8": ("09" * 48,)})) == {"nitro.pcr8"}
    assert refused(NitroPolicy(pcrs={"0": ("09" * 48,), "1": ("02" * 48,)})) == {"nitro.pcr0"}


def test_a_debug_enclave_is_refused_unless_the_policy_says_otherwise() -> None:
    facts = FACTS | {"debug_mode": True, "pcrs": {"0": "00" * 48}}
    assert "nitro.debug" in refused(NitroPolicy(pcrs={"0": (PCR0,)}), facts)
    assert refused(NitroPolicy(pcrs={"0": ("00" * 48,)}, allow_debug=True), facts) == set()


def test_a_real_shaped_debug_document_says_so_in_its_facts() -> None:
    module = Module()
    document = module.document(pcrs=dict.fromkeys(range(16), bytes(48)))
    facts = examine_nitro(nitro_evidence(document), binding=None, at=MADE_AT).facts
    assert facts["debug_mode"] is True


def test_an_old_document_is_refused() -> None:
    assert refused(NitroPolicy(pcrs={"0": (PCR0,)}, max_age_seconds=9)) == {"nitro.age"}


def test_role_instance_and_module_are_held_to_those_named() -> None:
    good = NitroPolicy(
        pcrs={"0": (PCR0,)},
        role_arns=("arn:aws:iam::1:role/r",),
        instance_ids=("i-01",),
        module_ids=("i-01-enc02",),
    )
    assert refused(good) == set()
    other = NitroPolicy(pcrs={"0": (PCR0,)}, role_arns=("x",), instance_ids=("i-02",), module_ids=("i-02-enc02",))
    assert refused(other) == {"nitro.role", "nitro.instance", "nitro.module"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pcrs", {"0": [PCR0.replace("0", "A")]}),
        ("pcrs", {"0": ["00" * 48]}),
        ("pcrs", {"0": ["01" * 47]}),
        ("pcrs", {"32": [PCR0]}),
        ("pcrs", {"00": [PCR0]}),
        ("pcrs", {"-1": [PCR0]}),
        ("pcrs", {"": [PCR0]}),
        ("pcrs", {"9" * 6000: [PCR0]}),
        ("max_age_seconds", 0),
        ("measurements", ["00"]),
    ],
)
def test_a_field_that_cannot_be_meant_is_named(field: str, value: Any) -> None:
    with pytest.raises(msgspec.ValidationError, match=field if field != "measurements" else "unknown field"):
        msgspec.convert({field: value}, NitroPolicy)
