"""How what a keep found and what a probe found become one table."""

from __future__ import annotations

from keep_manager.sandbox import merge
from keep_manager.supervisor.interface import SandboxReport
from keep_protocol.handover import SandboxFact

REPORT = SandboxReport(
    directives=("PrivateTmp", "MemoryMax", "DevicePolicy", "IPAddressDeny"),
    facts=(SandboxFact("PrivateTmp", True), SandboxFact("MemoryMax", True, "64M"), SandboxFact("IPAddressDeny", False)),
    date="2026-01-01",
)


def test_what_the_keep_found_goes_before_what_the_probe_found() -> None:
    table = {line.name: line.status for line in merge(REPORT, (SandboxFact("PrivateTmp", False),))}
    assert table == {
        "PrivateTmp": "not effective",
        "MemoryMax": "verified by probe",
        "DevicePolicy": "not testable",
        "IPAddressDeny": "not effective",
    }


def test_the_date_of_the_probe_is_told() -> None:
    details = {line.name: line.detail for line in merge(REPORT, ())}
    assert details["MemoryMax"] == "2026-01-01 64M"


def test_without_a_probe_nothing_is_claimed() -> None:
    lines = merge(SandboxReport((), (), ""), (SandboxFact("UMask", True),))
    assert [(line.name, line.status) for line in lines] == [("UMask", "verified now")]
