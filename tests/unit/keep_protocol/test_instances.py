"""How units of keeps are called, and which keep a unit belongs to."""

from __future__ import annotations

import pytest

from keep_protocol.names import (
    instance_name,
    instance_of_unit,
    is_machine_instance,
    keep_of_instance,
    unit_name,
)

DEPLOYMENT, KEEP = "89abcdef", "0123456789abcdef"


@pytest.mark.parametrize(
    ("machine", "unit"),
    [(False, f"keep@{DEPLOYMENT}-{KEEP}.service"), (True, f"keep-vm@{DEPLOYMENT}-{KEEP}-vm.service")],
)
def test_an_instance_says_of_which_template_its_unit_is(machine: bool, unit: str) -> None:
    instance = instance_name(DEPLOYMENT, KEEP, machine=machine)
    assert is_machine_instance(instance) is machine
    assert unit_name(instance) == unit
    assert instance_of_unit(unit) == instance
    assert keep_of_instance(instance) == (DEPLOYMENT, KEEP)


@pytest.mark.parametrize("unit", ["keep-probe.service", "keep-net@x.service", "keep-manager.service", "keep@x.socket"])
def test_other_units_are_nobodys_keep(unit: str) -> None:
    assert instance_of_unit(unit) is None
