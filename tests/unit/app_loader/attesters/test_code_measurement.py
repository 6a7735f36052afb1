"""The digest of a keep's own code: any change of it, and nothing else, changes the digest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from app_loader.attesters.code_measurement import measure_code


@pytest.fixture
def code(tmp_path: Path) -> Path:
    for name in ("app_loader/a.py", "app_loader/deep/b.py", "keep_loader/c.py", "keep_protocol/d.py"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"# {name}\n")
    return tmp_path


def _changed(root: Path) -> None:
    (root / "app_loader/deep/b.py").write_text("# another\n")


def _added(root: Path) -> None:
    (root / "keep_protocol/e.py").touch()


def _removed(root: Path) -> None:
    (root / "keep_loader/c.py").unlink()


def _renamed(root: Path) -> None:
    (root / "app_loader/a.py").rename(root / "app_loader/z.py")


def _swapped(root: Path) -> None:
    one, other = root / "app_loader/a.py", root / "keep_protocol/d.py"
    text = one.read_text()
    one.write_text(other.read_text())
    other.write_text(text)


@pytest.mark.parametrize("change", [_changed, _added, _removed, _renamed, _swapped])
def test_every_change_of_the_code_changes_its_measurement(code: Path, change: Callable[[Path], None]) -> None:
    before = measure_code(code)
    change(code)
    assert measure_code(code) != before


def test_the_same_code_elsewhere_has_the_same_measurement(code: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    copy = tmp_path_factory.mktemp("elsewhere") / "copy"
    for file in sorted(code.rglob("*.py"), reverse=True):
        target = copy / file.relative_to(code)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    assert measure_code(copy) == measure_code(code)


def test_what_is_no_code_of_a_keep_is_not_measured(code: Path) -> None:
    before = measure_code(code)
    (code / "keep_manager").mkdir()
    (code / "keep_manager/m.py").touch()
    (code / "app_loader/__pycache__").mkdir()
    (code / "app_loader/__pycache__/a.cpython-311.pyc").write_bytes(b"cache")
    assert measure_code(code) == before


def test_the_code_that_runs_is_measured_unless_told_otherwise() -> None:
    assert measure_code() == measure_code(Path(__file__).parents[4])
    assert len(measure_code()) == 32
