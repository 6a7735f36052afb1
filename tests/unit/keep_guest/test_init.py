"""What init refuses before there is a process of the keep."""

from __future__ import annotations

import pytest

from keep_client.specs import new_spec
from keep_guest import binding, init
from keep_guest.errors import GuestError
from keep_protocol.evidence import EvidenceKind
from keep_protocol.spec import Principal
from keep_protocol.states import Backend, KeepRole
from tests.guest_machine import configuration

OWNER = Principal(roles=(KeepRole.OWNER,), certificate="AAAA")


@pytest.fixture(autouse=True)
def without_tpm(monkeypatch: pytest.MonkeyPatch) -> None:
    # The machine that the tests run on may have one.
    monkeypatch.setattr(binding, "extend_spec", lambda digest: False)


def test_a_clone_never_becomes_a_keep_that_proves_how_it_was_started() -> None:
    told = configuration(new_spec(principals=[OWNER], backend=Backend.QEMU_VTPM, evidence=EvidenceKind.TPM))
    with pytest.raises(GuestError, match=r"a qemu\+vtpm machine is never cloned"):
        init._prepare(told, cloned=True)


@pytest.mark.parametrize(
    ("backend", "evidence"),
    [
        (Backend.SNP, EvidenceKind.SNP),
        (Backend.TDX, EvidenceKind.TDX),
        (Backend.NITRO, EvidenceKind.NITRO),
    ],
)
def test_a_machine_of_trusted_hardware_mounts_no_disk_of_its_hosts(backend: Backend, evidence: EvidenceKind) -> None:
    told = configuration(new_spec(principals=[OWNER], backend=backend, evidence=evidence), disk=True)
    with pytest.raises(GuestError, match=f"a {backend} machine mounts no disk of its host's"):
        init._prepare(told, cloned=False)
