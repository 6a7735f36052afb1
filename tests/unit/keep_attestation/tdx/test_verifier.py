"""Whether what only TDs have is checked: a service TD, which could move the TD to another machine (migration)."""

from __future__ import annotations

from tests.unit.keep_attestation.intel.forge import td_report
from tests.unit.keep_attestation.intel.outcomes import FORGE, examine, failures, names


def test_a_td_without_a_service_td_passes() -> None:
    quote = FORGE.quote(td_report(mr_service_td=bytes(48)), version=5)
    examination = examine(FORGE.evidence("tdx", quote, FORGE.collateral("tdx")), anchors=FORGE.anchors)
    assert failures(examination) == {}
    assert "tdx.service_td" in names(examination)


def test_a_td_with_a_service_td_is_refused_and_the_service_td_named() -> None:
    quote = FORGE.quote(td_report(mr_service_td=bytes([0x5E]) * 48), version=5)
    examination = examine(FORGE.evidence("tdx", quote, FORGE.collateral("tdx")), anchors=FORGE.anchors)
    assert "5e" * 48 in failures(examination)["tdx.service_td"]


def test_a_quote_of_version_5_may_be_of_a_td_1_0_which_has_no_service_td() -> None:
    quote = FORGE.quote(td_report(), version=5)
    examination = examine(FORGE.evidence("tdx", quote, FORGE.collateral("tdx")), anchors=FORGE.anchors)
    assert failures(examination) == {}
    assert "tdx.service_td" not in names(examination)
