"""Looking at a host: programs that answer, fail, lie or hang, and devices that are there and of no use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from keep_manager.errors import ProgramError
from keep_manager.machines import survey as survey_module
from keep_manager.machines.commands import ask
from keep_manager.machines.qemu_features import QemuFeatures, qemu_features
from keep_manager.machines.settings import MachineSettings
from keep_manager.machines.survey import USABLE_SPEED, KvmResult, Surveyor, probe_processor
from tests.unit.keep_manager.machines.fake_programs import DEVICES, write_program, write_qemu, write_swtpm
from tests.unit.keep_manager.machines.images import write_image


class TestQemu:
    def test_it_says_what_it_can_do(self, tmp_path: Path) -> None:
        found = qemu_features(write_qemu(tmp_path, objects=("rng-builtin", "sev-snp-guest")))
        assert found == QemuFeatures(
            (7, 2, 22), frozenset({"rng-builtin", "sev-snp-guest"}), frozenset({"tcg", "kvm"}), frozenset(DEVICES)
        )
        assert found.version_text == "7.2.22"

    def test_a_version_without_its_third_number_is_one(self, tmp_path: Path) -> None:
        assert qemu_features(write_qemu(tmp_path, version="11.1")).version == (11, 1, 0)

    @pytest.mark.parametrize(
        ("script", "complaint"),
        [
            ("echo 'GNU bash, version 5'", "is no QEMU: it says 'GNU bash"),
            ("exit 3", "exit status 3"),
            ("echo broken >&2; exit 1", "broken"),
        ],
    )
    def test_a_program_that_is_none_is_told(self, tmp_path: Path, script: str, complaint: str) -> None:
        with pytest.raises(ProgramError, match=complaint):
            qemu_features(write_program(tmp_path / "qemu", script))

    def test_one_that_is_missing_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(ProgramError, match="No such file"):
            qemu_features(tmp_path / "qemu")

    def test_one_that_hangs_is_given_up(self, tmp_path: Path) -> None:
        with pytest.raises(ProgramError, match=r"did not answer within 0\.2 s"):
            ask([str(write_program(tmp_path / "qemu", "exec sleep 600"))], deadline=0.2)


class TestProcessor:
    def test_the_probe_measures_or_says_why_not(self) -> None:
        found = probe_processor().kvm
        assert found.error or found.steps_per_second > 0

    def test_a_probe_that_hangs_is_a_processor_without_kvm(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(survey_module, "_PROBE_DEADLINE", 0.001)
        found = probe_processor()
        assert "the probe of the processor failed" in found.kvm.error
        assert not found.kvm.usable

    @pytest.mark.parametrize(
        ("result", "usable"),
        [
            (KvmResult(steps_per_second=1_300_000), False),
            (KvmResult(steps_per_second=USABLE_SPEED - 1), False),
            (KvmResult(steps_per_second=USABLE_SPEED), True),
            (KvmResult(error="no", steps_per_second=10**9), False),
        ],
    )
    def test_a_device_that_opens_is_not_yet_usable(self, result: KvmResult, usable: bool) -> None:
        assert result.usable is usable


class TestSurvey:
    def test_everything_is_looked_at(self, tmp_path: Path) -> None:
        write_image(tmp_path / "image")
        settings = MachineSettings(image=tmp_path / "image", qemu=write_qemu(tmp_path), swtpm=write_swtpm(tmp_path))
        found = Surveyor(settings, tmp_path).look()
        assert isinstance(found.qemu, QemuFeatures)
        assert not isinstance(found.image, str)
        assert (found.swtpm, found.swtpm_problem) == ("TPM emulator version 0.7.1, Copyright (c) somebody", "")
        assert found.devices["dev/sev"].problem == "/dev/sev: No such file or directory"
        assert found.parameters == dict.fromkeys(found.parameters)

    def test_a_qemu_that_was_replaced_is_asked_again(self, tmp_path: Path) -> None:
        surveyor = Surveyor(MachineSettings(image=tmp_path, qemu=write_qemu(tmp_path)), tmp_path)
        surveyor.look()
        write_qemu(tmp_path, version="10.0.2")
        found = surveyor.look().qemu
        assert isinstance(found, QemuFeatures)
        assert found.version == (10, 0, 2)

    def test_a_swtpm_without_its_set_up_is_none(self, tmp_path: Path) -> None:
        swtpm = write_swtpm(tmp_path)
        (tmp_path / "swtpm_setup").unlink()
        found = Surveyor(MachineSettings(image=tmp_path, qemu=write_qemu(tmp_path), swtpm=swtpm), tmp_path).look()
        assert found.swtpm_problem == f"{tmp_path / 'swtpm_setup'} is not there"

    def test_a_file_is_no_device(self, tmp_path: Path) -> None:
        (tmp_path / "dev").mkdir()
        (tmp_path / "dev" / "sev").touch()
        found = Surveyor(MachineSettings(image=tmp_path, qemu=tmp_path / "none"), tmp_path).look()
        assert found.devices["dev/sev"].problem == "/dev/sev is no device"

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a device node")
    def test_a_device_that_keeps_may_not_open_is_of_no_use(self, tmp_path: Path) -> None:
        (tmp_path / "dev").mkdir()
        node = tmp_path / "dev" / "sev"
        try:
            os.mknod(node, 0o020600, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("device nodes cannot be made here")
        surveyor = Surveyor(MachineSettings(image=tmp_path, qemu=tmp_path / "none"), tmp_path)
        assert "closed to the users of keeps" in surveyor.look().devices["dev/sev"].problem
        node.chmod(0o666)
        assert surveyor.look().devices["dev/sev"].problem == ""

    def test_a_parameter_of_a_module_is_read(self, tmp_path: Path) -> None:
        folder = tmp_path / "sys/module/kvm_amd/parameters"
        folder.mkdir(parents=True)
        (folder / "sev_snp").write_text("Y\n")
        found = Surveyor(MachineSettings(image=tmp_path, qemu=tmp_path / "none"), tmp_path).look()
        assert (found.parameters["kvm_amd.sev_snp"], found.parameters["kvm_intel.tdx"]) == ("Y", None)
