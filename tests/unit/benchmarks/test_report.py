"""The report of the benchmarks, rendered from made-up readings."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.measurement import Comparison, Omission, Row, Sample, Target, interleaved
from benchmarks.report import BEGIN, END, insert, render


def row(measured: float, baseline: float | None, target: Target | None) -> Row:
    alone = None if baseline is None else Sample("ms", (baseline,) * 3)
    return Row("a thing", "another thing", Sample("ms", (measured,) * 3), alone, target)


def cells(line: Row | Omission) -> list[str]:
    return [cell.strip() for cell in render([line], {}).splitlines()[2].strip("|").split("|")]


def test_a_sample_has_the_middle_reading_and_the_one_that_nine_tenths_do_not_exceed() -> None:
    sample = Sample.of("ms", range(20, 0, -1))
    assert (sample.median, sample.p90) == (10.5, 18)


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [(150.0, "yes, and the aim"), (200.0, "yes; 11 % off the aim"), (300.0, "**no**, 20 % off")],
)
def test_a_ratio_is_reached_by_less_than_its_target(measured: float, verdict: str) -> None:
    found = cells(row(measured, 100, Target(Comparison.RATIO, 2.5, aim=1.8)))
    assert found[5:] == [f"{measured / 100:.2f}×", "≤ 2.5×, aim 1.8", verdict]


@pytest.mark.parametrize(("measured", "verdict"), [(200.0, "yes"), (400.0, "**no**, 17 % off")])
def test_a_speed_is_reached_by_more_than_its_target(measured: float, verdict: str) -> None:
    found = cells(row(measured, 100, Target(Comparison.SPEED, 0.3)))
    assert found[5:] == [f"{100 / measured:.2f}×", "≥ 0.3×", verdict]


def test_a_difference_and_a_value_are_shown_in_their_unit() -> None:
    assert cells(row(150, 100, Target(Comparison.DIFFERENCE, 60)))[5:7] == ["+50.00 ms", "≤ +60 ms"]
    assert cells(row(150, None, Target(Comparison.VALUE, 160)))[3:7] == ["–", "3", "150.0 ms", "≤ 160 ms"]


def test_a_row_without_a_target_shows_its_ratio_only() -> None:
    assert cells(row(50, 100, None))[5:] == ["0.50×", "–", "–"]


def test_what_could_not_be_measured_says_why() -> None:
    assert cells(Omission("a thing", "no nginx"))[-1] == "not measured: no nginx"


def test_facts_of_the_machine_follow_the_table() -> None:
    assert render([], {"cores": "2"}).endswith("- cores: 2")


def test_what_people_wrote_around_the_measured_part_stays(tmp_path: Path) -> None:
    document = tmp_path / "benchmarks.md"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    insert(document, "new")
    assert document.read_text() == f"before\n{BEGIN}\nnew\n{END}\nafter\n"


def test_a_document_without_a_place_for_what_was_measured_is_left_alone(tmp_path: Path) -> None:
    document = tmp_path / "benchmarks.md"
    document.write_text("all by hand\n")
    with pytest.raises(ValueError, match="to write between"):
        insert(document, "new")
    assert document.read_text() == "all by hand\n"


def test_measures_take_turns_and_the_first_turn_does_not_count() -> None:
    calls: list[str] = []

    def measure(name: str) -> float:
        calls.append(name)
        return len(calls)

    readings = interleaved(2, lambda: measure("a"), lambda: measure("b"))
    assert "".join(calls) == "baabba"
    assert readings == [(3, 6), (4, 5)]
