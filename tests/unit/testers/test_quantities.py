"""Tests of `testers.keepctl.quantities`."""

from __future__ import annotations

import argparse

import pytest

from testers.keepctl.quantities import duration, percentage, size, size_text, whole_duration


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("4096", 4096),
        ("10B", 10),
        ("64M", 64 << 20),
        ("512KiB", 512 << 10),
        ("1G", 1 << 30),
        ("2TiB", 2 << 40),
    ],
)
def test_sizes_are_in_powers_of_1024(text: str, expected: int) -> None:
    assert size(text) == expected


@pytest.mark.parametrize("text", ["", "M", "-1", "1.5G", "64MB", "64m", "64 M", "1e3", "٣", "64Mi", "9" * 16])
def test_a_size_that_could_mean_something_else_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not a size"):
        size(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("30", 30), ("30s", 30), ("5m", 300), ("1h", 3600), ("2d", 172800), ("250ms", 0.25), ("0.5s", 0.5)],
)
def test_durations_have_units(text: str, expected: float) -> None:
    assert duration(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "s", "0", "0s", "-1s", "1 s", "1S", "1w", "1h30m", "nan", "inf"])
def test_a_duration_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not a duration"):
        duration(text)


def test_limits_of_specs_are_whole_seconds() -> None:
    assert whole_duration("2m") == 120
    with pytest.raises(argparse.ArgumentTypeError, match="whole number"):
        whole_duration("1500ms")


def test_processor_shares_are_percent() -> None:
    assert (percentage("50"), percentage("200%")) == (50, 200)
    with pytest.raises(argparse.ArgumentTypeError, match="percent of one processor"):
        percentage("1.5")


def test_sizes_are_shown_with_the_largest_unit() -> None:
    assert [size_text(count) for count in (0, 1023, 1024, 1536, 512 << 20, 1 << 40)] == [
        "0 B",
        "1023 B",
        "1 KiB",
        "1.5 KiB",
        "512 MiB",
        "1 TiB",
    ]
