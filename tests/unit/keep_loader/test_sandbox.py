"""The cheap checks, outside of any sandbox: none of them may claim one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from keep_loader import sandbox


def test_outside_of_a_sandbox_the_checks_say_so(tmp_path: Path) -> None:
    facts = {fact.name: fact for fact in sandbox.facts(())}
    if os.geteuid() == 0:
        assert not facts["CapabilityBoundingSet"].holds
    assert not facts["RestrictAddressFamilies"].holds
    assert not facts["PrivateNetwork"].holds or os.listdir("/sys/class/net") == ["lo"]


def test_a_place_is_hidden_when_only_the_way_to_visible_folders_shows(tmp_path: Path) -> None:
    (tmp_path / "code" / "package").mkdir(parents=True)
    visible = (tmp_path / "code" / "package",)
    assert sandbox._hidden("P", (str(tmp_path),), visible).holds
    (tmp_path / "secret").touch()
    assert not sandbox._hidden("P", (str(tmp_path),), visible).holds


def test_the_umask_is_read_without_being_changed() -> None:
    previous = os.umask(0o027)
    try:
        assert sandbox._umask() == 0o027
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(previous)


@pytest.mark.parametrize("package", ["keep_loader", "app_loader", "keep_protocol"])
def test_the_code_of_a_keep_is_its_packages_not_their_checkout(package: str) -> None:
    folders = sandbox.code_folders()
    checkout = Path(sandbox.__file__).resolve().parent.parent
    assert checkout / package in folders
    assert checkout not in folders
