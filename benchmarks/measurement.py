"""Readings, figures made of them, and the targets that figures are held to."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Sample:
    """Readings of one quantity in `unit`."""

    unit: str
    values: tuple[float, ...]

    @classmethod
    def of(cls, unit: str, values: Iterable[float]) -> Sample:
        """From any iterable of readings."""
        return cls(unit, tuple(values))

    @property
    def median(self) -> float:
        """The middle reading, which no single disturbance moves."""
        return statistics.median(self.values)

    @property
    def p90(self) -> float:
        """The smallest reading that nine tenths of all do not exceed (nearest rank)."""
        return sorted(self.values)[math.ceil(0.9 * len(self.values)) - 1]


class Comparison(StrEnum):
    """How a figure is made of the medians of what was measured and of its baseline."""

    RATIO = "ratio"
    """Measured over baseline; less is better."""
    SPEED = "speed"
    """Baseline time over measured time, which is throughput over throughput; more is better."""
    DIFFERENCE = "difference"
    """Measured minus baseline; less is better."""
    VALUE = "value"
    """Measured as it is; less is better."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure has to reach, and what it would be good to reach."""

    comparison: Comparison
    limit: float
    aim: float | None = None

    def allows(self, figure: float, bound: float) -> bool:
        """Whether `figure` is as good as `bound` or better."""
        return figure >= bound if self.comparison is Comparison.SPEED else figure <= bound


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the report. `baseline` is None where a value is held to a target by itself."""

    what: str
    against: str
    """What the baseline is, in words."""
    measured: Sample
    baseline: Sample | None
    target: Target | None
    """None for a row that is only there to be compared with another."""

    @property
    def figure(self) -> float:
        """What the target is about."""
        comparison = self.target.comparison if self.target else Comparison.RATIO
        if self.baseline is None:
            return self.measured.median
        match comparison:
            case Comparison.RATIO:
                return self.measured.median / self.baseline.median
            case Comparison.SPEED:
                return self.baseline.median / self.measured.median
            case Comparison.DIFFERENCE:
                return self.measured.median - self.baseline.median
            case Comparison.VALUE:
                return self.measured.median


@dataclass(frozen=True, slots=True)
class Omission:
    """A line of the report for what could not be measured here, and why."""

    what: str
    reason: str


Measure = Callable[[], float]


def interleaved(rounds: int, *measures: Measure) -> list[tuple[float, ...]]:
    """The readings of each of `measures`, taken in turns; one turn before the first is not counted.

    Every second turn goes backwards, so that nobody always comes after the same predecessor.
    """
    readings: list[list[float]] = [[] for _ in measures]
    numbered = list(enumerate(measures))
    for turn in range(rounds + 1):
        for number, measure in numbered if turn % 2 else reversed(numbered):
            reading = measure()
            if turn:
                readings[number].append(reading)
    return [tuple(values) for values in readings]
