"""What init does to the machine, as far as it can be seen without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from keep_guest import machine


def test_a_kernel_with_page_reporting_is_told_to_report_small_blocks_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    order = tmp_path / "page_reporting_order"
    order.write_text("-1")
    monkeypatch.setattr(machine, "_REPORTED_ORDER", order)
    machine.give_memory_back()
    assert order.read_text() == "5"
    assert capsys.readouterr().err == ""


def test_a_kernel_that_cannot_give_memory_back_says_so_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "_REPORTED_ORDER", tmp_path / "absent" / "page_reporting_order")
    machine.give_memory_back()
    assert "no memory is given back to the host" in capsys.readouterr().err
