"""A keep is judged by the image that it should be: what files tell takes the place of what the keep shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from keep_attestation.verdict import Outcome
from keep_client import InvalidArgumentError
from keep_protocol.evidence import EvidenceKind
from testers.keepctl.attestation.image_policy import ExpectedImage, PolicyOfAnImage
from tests.unit.keep_image.test_images import write_image
from tests.unit.testers.conftest import Program

IMAGE = {"tpm": {"pcrs": {"sha256": {"4": ["44" * 32], "9": ["99" * 32, "98" * 32]}}}}
FACTS: dict[str, Any] = {
    "ak_name": "000b" + "aa" * 32,
    "pcrs": {"sha256": {"0": "00" * 32, "4": "44" * 32, "9": "98" * 32}},
}


def failed(policy: PolicyOfAnImage, facts: dict[str, Any], kind: EvidenceKind = EvidenceKind.TPM) -> list[str]:
    return [check.name for check in policy.appraise(kind, facts) if check.outcome is Outcome.FAIL]


def with_pcr(number: str, value: str) -> dict[str, Any]:
    return {**FACTS, "pcrs": {"sha256": {**FACTS["pcrs"]["sha256"], number: value}}}


def test_a_keep_of_the_image_is_accepted_and_pinned_with_what_the_files_say() -> None:
    policy = PolicyOfAnImage(name="image", image=IMAGE, allow_software_tpm=True)
    assert failed(policy, FACTS) == []
    table = policy.demanded(EvidenceKind.TPM, FACTS)
    assert table["pcrs"]["sha256"] == {"0": ["00" * 32], "4": ["44" * 32], "9": ["99" * 32, "98" * 32]}
    assert table["ak_names"] == [FACTS["ak_name"]]


def test_a_keep_of_another_image_is_refused_whatever_it_shows() -> None:
    policy = PolicyOfAnImage(name="image", image=IMAGE, allow_software_tpm=True)
    assert failed(policy, with_pcr("9", "97" * 32)) == ["tpm.pcr9"]
    assert failed(policy, with_pcr("4", "00" * 32)) == ["tpm.pcr4"]


def test_a_software_tpm_is_accepted_only_where_somebody_says_so() -> None:
    assert failed(PolicyOfAnImage(name="image", image=IMAGE), FACTS) == ["tpm.trust"]


def test_evidence_of_another_kind_than_the_image_was_measured_for_is_refused() -> None:
    assert failed(PolicyOfAnImage(name="image", image=IMAGE), {}, EvidenceKind.SIMULATED) == ["policy.kind"]


def test_an_image_is_measured_for_the_kind_of_evidence_that_the_keep_makes(tmp_path: Path) -> None:
    expected = ExpectedImage(folder=write_image(tmp_path / "image"), memory=512 << 20)
    pcrs = expected.tables(EvidenceKind.TPM, "ab" * 32)["tpm"]["pcrs"]["sha256"]
    assert set(pcrs) == {"4", "9", "11"}
    assert set(expected.tables(EvidenceKind.NITRO, None)["nitro"]["pcrs"]) == {"0", "1", "2"}
    for kind, message in (
        (None, "no image is measured by no evidence"),
        (EvidenceKind.SIMULATED, "no image is measured by simulated evidence"),
        (EvidenceKind.SNP, "--firmware is needed for snp"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            expected.tables(kind, None)


def test_an_image_without_its_machines_memory_is_asked_for_it(keepctl: Program) -> None:
    done = keepctl("trust", "prices", "--image", "/srv/image")
    assert done.returncode == 1
    assert "--image needs --memory SIZE" in done.stderr
