"""What a machine has for isolating keeps and for proving them, told by what is and is not in its file system."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from keep_manager.backends import check_evidence
from keep_manager.hardware import DEFAULT_TPM, attesters, sgx_backend
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.evidence import EvidenceKind
from keep_protocol.manager_api import AttesterInfo
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


class TestSgx:
    def test_a_machine_without_it_says_what_it_takes(self, tmp_path: Path) -> None:
        info = sgx_backend(tmp_path)
        assert (info.name, info.available, info.checks[0].passed) == (Backend.SGX, False, False)
        assert info.checks[0].message.startswith("this machine offers no SGX")

    def test_a_machine_with_it_has_nothing_that_starts_keeps_yet(self, tmp_path: Path) -> None:
        (tmp_path / "dev").mkdir()
        (tmp_path / "dev" / "sgx_enclave").symlink_to("/dev/null")
        info = sgx_backend(tmp_path)
        assert not info.available
        assert [check.passed for check in info.checks] == [True, False]
        assert "starts no sgx keeps" in info.checks[1].message


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
