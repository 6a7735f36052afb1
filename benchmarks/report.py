"""Writes rows as Markdown, into the part of docs/benchmarks.md that is between two markers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from benchmarks.measurement import Comparison, Omission, Row, Sample, Target

BEGIN = "<!-- measured: begin -->"
END = "<!-- measured: end -->"

_HEAD = (
    "| what | baseline | measured: median (p90) | baseline: median (p90) | readings | figure | target | reached |",
    "|---|---|---|---|---|---|---|---|",
)


def render(rows: Iterable[Row | Omission], machine: Mapping[str, str]) -> str:
    """The table, and the machine below it."""
    facts = [f"- {name}: {value}" for name, value in machine.items()]
    return "\n".join([*_HEAD, *map(_line, rows), "", "Measured on:", "", *facts])


def insert(document: Path, measured: str) -> None:
    """Replace what was measured before; what people wrote around it stays. Raises `ValueError` without markers."""
    text = document.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{document} has no {BEGIN} and {END} to write between")
    document.write_text(f"{before}{begin}\n{measured}\n{end}{after}")


def _line(row: Row | Omission) -> str:
    if isinstance(row, Omission):
        return f"| {row.what} | – | – | – | – | – | – | not measured: {row.reason} |"
    cells = (
        row.what,
        row.against,
        _sample(row.measured),
        _sample(row.baseline) if row.baseline else "–",
        str(len(row.measured.values)),
        _figure(row),
        _target(row.target, row.measured.unit) if row.target else "–",
        _verdict(row.target, row.figure) if row.target else "–",
    )
    return f"| {' | '.join(cells)} |"


def _sample(sample: Sample) -> str:
    return f"{_number(sample.median)} ({_number(sample.p90)}) {sample.unit}"


def _figure(row: Row) -> str:
    comparison = row.target.comparison if row.target else Comparison.RATIO
    match comparison:
        case Comparison.RATIO | Comparison.SPEED:
            return f"{row.figure:.2f}×"
        case Comparison.DIFFERENCE:
            return f"{row.figure:+.2f} {row.measured.unit}"
        case Comparison.VALUE:
            return f"{row.figure:.1f} {row.measured.unit}"


def _target(target: Target, unit: str) -> str:
    match target.comparison:
        case Comparison.RATIO:
            text = f"≤ {target.limit:g}×"
        case Comparison.SPEED:
            text = f"≥ {target.limit:g}×"
        case Comparison.DIFFERENCE:
            text = f"≤ +{target.limit:g} {unit}"
        case Comparison.VALUE:
            text = f"≤ {target.limit:g} {unit}"
    return text if target.aim is None else f"{text}, aim {target.aim:g}"


def _verdict(target: Target, figure: float) -> str:
    if not target.allows(figure, target.limit):
        return f"**no**, {_distance(figure, target.limit)} off"
    if target.aim is None:
        return "yes"
    return (
        "yes, and the aim" if target.allows(figure, target.aim) else f"yes; {_distance(figure, target.aim)} off the aim"
    )


def _distance(figure: float, bound: float) -> str:
    return f"{abs(figure / bound - 1) * 100:.0f} %"


def _number(value: float) -> str:
    """Three digits that mean something."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
