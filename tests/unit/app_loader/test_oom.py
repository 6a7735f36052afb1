"""Tests of `app_loader.oom`."""

from __future__ import annotations

from pathlib import Path

import pytest

from app_loader.oom import OomKills


@pytest.mark.parametrize(
    "text", ["low 0\nhigh 0\noom {0}\noom_kill {0}\n", "oom_kill_disable 0\nunder_oom 0\noom_kill {0}\n"]
)
def test_each_kill_is_claimed_once(tmp_path: Path, text: str) -> None:
    file = tmp_path / "events"
    file.write_text(text.format(3))
    kills = OomKills(file)
    assert not kills.claim()
    file.write_text(text.format(5))
    assert [kills.claim() for _ in range(3)] == [True, True, False]


def test_a_count_that_is_away_or_nonsense_is_no_kill(tmp_path: Path) -> None:
    file = tmp_path / "events"
    kills = OomKills(file)
    assert not kills.claim()
    file.write_text("oom_kill many\n")
    assert not kills.claim()


def test_a_process_without_a_memory_group_has_no_kills() -> None:
    assert OomKills().claim() is False
