"""How unit files are rendered for an installation."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from keep_manager.supervisor.sandbox_probe import directives, render_probe_unit
from keep_manager.supervisor.units import (
    KeepUnit,
    KeepUser,
    code_folders,
    render_keep_unit,
    render_machine_unit,
    render_manager_unit,
    write_units,
)


def _unit(home: Path, user: KeepUser = KeepUser.DYNAMIC) -> KeepUnit:
    return KeepUnit(home, home / "state" / "logs", user)


def test_a_keep_runs_this_interpreter_and_sees_only_the_code_it_needs(tmp_path: Path) -> None:
    lines = render_keep_unit(_unit(tmp_path)).splitlines()
    (command,) = (line for line in lines if line.startswith("ExecStart="))
    assert command.startswith(f"ExecStart={sys.prefix}/bin/python -I -c ")
    assert command.endswith(" %i")
    bound = " ".join(line for line in lines if line.startswith("BindReadOnlyPaths="))
    assert "keep_manager" not in bound
    assert all(str(folder) in bound for folder in code_folders())
    assert not any("/usr/lib/wasmkeep" in line for line in lines if not line.startswith("#"))


def test_no_folder_is_bound_twice_and_none_below_another() -> None:
    folders = code_folders()
    pairs = [(one, other) for one in folders for other in folders if one != other and one.is_relative_to(other)]
    assert pairs == []


def test_every_instance_has_a_dynamic_user_of_its_own(tmp_path: Path) -> None:
    assert "User=k-%i" in render_keep_unit(_unit(tmp_path)).splitlines()
    assert "DynamicUser" not in render_keep_unit(_unit(tmp_path, KeepUser.SHARED)).replace("no DynamicUser=", "")


def test_the_home_is_covered_from_the_outermost_folder_that_is_closed_to_others(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    home = closed / "open" / "home"
    home.mkdir(parents=True)
    for folder in (*reversed(home.relative_to(tmp_path).parents), Path("closed/open/home")):
        (tmp_path / folder).chmod(0o755)
    outermost = next((folder for folder in reversed(home.parents) if not folder.stat().st_mode & 0o001), None)
    assert f"TemporaryFileSystem={outermost or home}:ro" in render_keep_unit(_unit(home))
    if outermost is None:
        closed.chmod(0o700)
        assert f"TemporaryFileSystem={closed}:ro" in render_keep_unit(_unit(home))


def test_paths_with_blanks_colons_and_percent_signs_are_escaped(tmp_path: Path) -> None:
    text = render_keep_unit(KeepUnit(tmp_path, Path("/var/log/a b:c%d"), KeepUser.DYNAMIC))
    assert "StandardOutput=append:/var/log/a\\x20b\\:c%%d/%i.log" in text.splitlines()


def test_the_probe_has_every_directive_of_the_keeps_sandbox(tmp_path: Path) -> None:
    keep = render_keep_unit(_unit(tmp_path))
    probe = render_probe_unit(keep, home=tmp_path, output=tmp_path / "probe", namespaces=("mnt:[1]",))
    for name in directives(keep):
        assert f"\n{name}=" in probe, name
    assert "WatchdogSec" not in probe
    assert "-m keep_loader.probe outside" in probe


def test_writing_units_again_changes_nothing(tmp_path: Path) -> None:
    unit = _unit(tmp_path)
    assert write_units(tmp_path / "units", targets={}, unit=unit)
    assert not write_units(tmp_path / "units", targets={}, unit=unit)


@pytest.mark.parametrize(("kind", "target"), [("system", "multi-user.target"), ("user", "default.target")])
def test_the_manager_unit_serves_its_home(tmp_path: Path, kind: str, target: str) -> None:
    lines = render_manager_unit(home=tmp_path, kind=kind).splitlines()
    assert f"ExecStart={sys.prefix}/bin/keep-manager serve --home {tmp_path} --systemd {kind}" in lines
    assert f"WantedBy={target}" in lines


def test_a_machines_unit_is_a_keeps_with_what_machines_need_after_it(tmp_path: Path) -> None:
    keep, machine = render_keep_unit(_unit(tmp_path)), render_machine_unit(_unit(tmp_path))
    assert machine.startswith(keep)
    added = machine.removeprefix(keep).splitlines()
    assert "DeviceAllow=/dev/kvm rw" in added
    assert "RestrictAddressFamilies=AF_VSOCK" in added
    # What a keep's unit forbids stays forbidden: lines are added, and none takes a sandbox away.
    assert not [line for line in added if line.endswith("=no") or line.startswith(("User=", "PrivateNetwork="))]


def test_a_process_keeps_unit_gives_no_device_of_virtualisation(tmp_path: Path) -> None:
    assert "/dev/kvm" not in render_keep_unit(_unit(tmp_path))


def test_the_probe_of_a_machines_unit_knows_what_is_looser_there(tmp_path: Path) -> None:
    unit = render_machine_unit(_unit(tmp_path))
    probe = render_probe_unit(unit, home=tmp_path, output=tmp_path / "out", namespaces=(), machine=True).splitlines()
    assert "Environment=PROBE_MACHINE=1" in probe
    assert probe.count("Type=oneshot") == 1
    assert "LimitMEMLOCK=infinity" in probe
    assert "LimitMEMLOCK" in directives(unit)
