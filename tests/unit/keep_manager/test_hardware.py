"""What a machine has for isolating keeps and for proving them, told by what is and is not in its file system."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from keep_manager.backends import check_evidence
from keep_manager.hardware import DEFAULT_TPM, attesters, tee_backends
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.evidence import EvidenceKind
from keep_protocol.manager_api import AttesterInfo, BackendInfo, Check
from keep_protocol.states import Backend


@pytest.fixture
def tpm(tmp_path: Path) -> Iterator[Path]:
    """A socket, as a software TPM listens on."""
    path = tmp_path / "tpm.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(path))
        yield path


def attester(kind: EvidenceKind, tpm: Path | None, root: Path = Path("/")) -> AttesterInfo:
    return next(info for info in attesters(tpm, root) if info.kind is kind)


def backend(name: Backend, root: Path) -> tuple[BackendInfo, Check]:
    """A backend, and its check of the hardware."""
    info = next(info for info in tee_backends(root) if info.name is name)
    return info, next(check for check in info.checks if check.name == "hardware")


def place(root: Path, path: str, content: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True)
    file.write_text(content)


class TestAttesters:
    def test_simulated_evidence_can_be_made_everywhere_and_says_what_it_is(self, tmp_path: Path) -> None:
        info = attester(EvidenceKind.SIMULATED, None, tmp_path)
        assert info.available
        assert "proves nothing about hardware" in info.checks[0].info

    def test_a_machine_without_a_tpm_says_what_to_do(self, tmp_path: Path) -> None:
        info = attester(EvidenceKind.TPM, None, tmp_path)
        assert not info.available
        assert f"{DEFAULT_TPM} does not exist" in info.checks[0].message
        assert "name its path in `tpm`" in info.checks[0].message

    def test_a_tpm_behind_a_socket_is_found_where_the_settings_say(self, tpm: Path) -> None:
        info = attester(EvidenceKind.TPM, tpm)
        assert info.available
        assert str(tpm) in info.checks[0].info

    def test_a_device_is_a_tpm_too(self) -> None:
        assert attester(EvidenceKind.TPM, Path("/dev/null")).available

    def test_a_file_is_no_tpm(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        info = attester(EvidenceKind.TPM, tmp_path / "file")
        assert not info.available
        assert "neither a device nor a socket" in info.checks[0].message

    def test_a_folder_that_cannot_be_looked_into_is_told_by_its_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        info = attester(EvidenceKind.TPM, tmp_path / "file" / "tpm")
        assert not info.available
        assert "Not a directory" in info.checks[0].message

    def test_a_tpm_that_this_user_may_not_use_names_the_remedy(
        self, tpm: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Modes would stop anybody but root, whom tests may well be.
        monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
        info = attester(EvidenceKind.TPM, tpm)
        assert not info.available
        assert "add it to the group of the device" in info.checks[0].message


class TestBackends:
    def test_every_backend_of_trusted_hardware_is_told(self, tmp_path: Path) -> None:
        told = {info.name for info in tee_backends(tmp_path)}
        assert told == {Backend.SNP, Backend.TDX, Backend.SGX, Backend.NITRO}

    def test_no_backend_is_available_while_nothing_starts_its_keeps(self, tmp_path: Path) -> None:
        place(tmp_path, "sys/module/kvm_amd/parameters/sev_snp", "Y\n")
        for info in tee_backends(tmp_path):
            assert not info.available
            launcher = next(check for check in info.checks if check.name == "launcher")
            assert f"starts no {info.name} keeps" in launcher.message

    @pytest.mark.parametrize(
        ("name", "path", "content"),
        [
            (Backend.SNP, "sys/module/kvm_amd/parameters/sev_snp", "Y\n"),
            (Backend.SNP, "sys/module/kvm_amd/parameters/sev_snp", "1\n"),
            (Backend.TDX, "sys/module/kvm_intel/parameters/tdx", "Y\n"),
        ],
    )
    def test_a_module_with_the_feature_on_is_hardware(
        self, tmp_path: Path, name: Backend, path: str, content: str
    ) -> None:
        place(tmp_path, path, content)
        _, hardware = backend(name, tmp_path)
        assert (hardware.passed, hardware.info) == (True, f"/{path} is there")

    @pytest.mark.parametrize("content", ["N\n", "0\n", ""])
    def test_a_module_with_the_feature_off_is_none(self, tmp_path: Path, content: str) -> None:
        place(tmp_path, "sys/module/kvm_amd/parameters/sev_snp", content)
        _, hardware = backend(Backend.SNP, tmp_path)
        assert not hardware.passed
        assert "AMD EPYC Milan or later with SNP enabled in firmware" in hardware.message

    @pytest.mark.parametrize(("name", "device"), [(Backend.SGX, "sgx_enclave"), (Backend.NITRO, "nitro_enclaves")])
    def test_a_device_is_hardware_by_being_there(self, tmp_path: Path, name: Backend, device: str) -> None:
        (tmp_path / "dev").mkdir()
        (tmp_path / "dev" / device).symlink_to("/dev/null")
        assert backend(name, tmp_path)[1].passed

    @pytest.mark.parametrize("name", [Backend.SNP, Backend.TDX, Backend.SGX, Backend.NITRO])
    def test_a_machine_without_it_says_what_it_takes(self, tmp_path: Path, name: Backend) -> None:
        _, hardware = backend(name, tmp_path)
        assert not hardware.passed
        assert hardware.message.startswith("this machine offers no ")


class TestCheckEvidence:
    @pytest.mark.parametrize("kind", [None, EvidenceKind.SIMULATED])
    def test_what_can_be_made_is_allowed(self, kind: EvidenceKind | None, tmp_path: Path) -> None:
        check_evidence(kind, tmp_path / "missing")

    def test_a_tpm_that_is_there_is_allowed(self, tpm: Path) -> None:
        check_evidence(EvidenceKind.TPM, tpm)

    def test_a_tpm_that_is_missing_is_refused_with_the_reason(self, tmp_path: Path) -> None:
        with pytest.raises(RefusalError) as caught:
            check_evidence(EvidenceKind.TPM, tmp_path / "missing")
        assert (caught.value.code, caught.value.field) == (ErrorCode.BACKEND_UNAVAILABLE, "spec.evidence")
        assert "does not exist" in caught.value.detail
