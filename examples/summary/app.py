"""The function of summary.wit, with Python's own statistics module."""

from __future__ import annotations

import statistics

import wit_world
from componentize_py_types import Err


class WitWorld(wit_world.WitWorld):
    def summarize(self, numbers: list[float]) -> wit_world.Summary:
        """Raises `Err` with what is missing."""
        if len(numbers) < 2:
            raise Err(f"{len(numbers)} numbers: expected at least two")
        return wit_world.Summary(
            count=len(numbers),
            mean=statistics.fmean(numbers),
            median=statistics.median(numbers),
            deviation=statistics.stdev(numbers),
        )
