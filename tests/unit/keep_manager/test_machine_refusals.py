"""A machine that this host's QEMU cannot make: refused when it is asked for, with what is lacking and the remedy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from keep_manager.config import Home, load_settings
from keep_manager.machines.settings import MachineSettings
from tests.unit.keep_manager.fake_supervisor import FakeSupervisor
from tests.unit.keep_manager.machines.fake_programs import DEVICES, write_program, write_qemu, write_swtpm
from tests.unit.keep_manager.machines.images import write_image
from tests.unit.keep_manager.running import keep_body, running


def without(device: str) -> tuple[str, ...]:
    return tuple(name for name in DEVICES if name != device)


@pytest.mark.parametrize(
    ("backend", "qemu", "told"),
    [
        ("qemu", lambda folder: folder / "none", ("No such file", "install `qemu-system-x86`, or set `machines.qemu`")),
        (
            "qemu",
            lambda folder: write_qemu(folder, version="6.2.0 (Debian 1:6.2)"),
            ("QEMU 6.2.0 is too old", "7.2 or later is needed, from backports or the next release"),
        ),
        (
            "qemu",
            lambda folder: write_qemu(folder, devices=without("virtserialport")),
            ("built without virtserialport", "install the distribution's `qemu-system-x86`"),
        ),
        (
            "qemu+vtpm",
            lambda folder: write_qemu(folder, devices=without("tpm-crb")),
            ("built without tpm-crb", "install the distribution's `qemu-system-x86`"),
        ),
        ("snp", write_qemu, ("QEMU 7.2.22 is too old", "9.1 or later is needed")),
        ("tdx", lambda folder: write_qemu(folder, version="10.1.0"), ("lacks the object `tdx-guest`", "a later one")),
        (
            "qemu",
            lambda folder: write_program(folder / "qemu-system-x86_64", "echo 'cannot load libslirp' >&2; exit 127"),
            ("cannot load libslirp", "install `qemu-system-x86`"),
        ),
    ],
    ids=["missing", "too old", "without its ports", "without a TPM", "too old for SNP", "without TDX", "broken"],
)
def test_a_machine_that_this_qemu_cannot_make_is_refused_with_the_remedy_and_leaves_nothing(
    home: Home,
    supervisor: FakeSupervisor,
    tmp_path: Path,
    backend: str,
    qemu: Callable[[Path], Path],
    told: tuple[str, ...],
) -> None:
    firmware = tmp_path / "OVMF.fd"
    firmware.touch()
    machines = MachineSettings(
        image=write_image(tmp_path / "image"), qemu=qemu(tmp_path), swtpm=write_swtpm(tmp_path), firmware=firmware
    )
    with running(home, replace(load_settings(home), machines=machines), supervisor) as manager:
        body = keep_body("one")
        body["spec"].update(backend=backend, evidence={"qemu": None, "qemu+vtpm": "tpm"}.get(backend, backend))
        answer = manager.client().post("/v1/keeps", json=body)
        problem = answer.json()
        assert (answer.status_code, problem["code"], problem["field"]) == (422, "backend-unavailable", "spec.backend")
        assert [words for words in told if words not in problem["detail"]] == [], problem["detail"]
        assert manager.client().get("/v1/keeps").json()["keeps"] == []
