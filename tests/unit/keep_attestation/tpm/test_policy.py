"""Whether a policy accepts the TPMs and states that it names, and no others."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from keep_attestation.tpm.policy import TpmPolicy
from keep_attestation.verdict import Outcome

NAME = "000b" + "aa" * 32
FACTS: dict[str, Any] = {
    "pcrs": {"sha256": {"7": "07" * 32}},
    "ak_name": NAME,
    "ak_root": "google",
    "ak_hierarchy": "endorsement",
    "ek_root": None,
    "google_project": "ours",
    "firmware": "0x2016",
    "safe": True,
    "reset_count": 3,
    "log_replayed": False,
}
PCRS = {"sha256": {"7": ("07" * 32,)}}


def refused(policy: TpmPolicy, **changes: Any) -> set[str]:
    facts = FACTS | changes
    return {check.name for rule in policy.rules() if (check := rule.check(facts)).outcome is Outcome.FAIL}


def test_a_google_key_and_a_known_state_are_accepted() -> None:
    assert refused(TpmPolicy(pcrs=PCRS)) == set()


def test_without_a_reference_value_everything_is_refused() -> None:
    assert refused(TpmPolicy()) == {"tpm.pcrs"}
    assert refused(TpmPolicy(pcrs={"sha256": {}})) == {"tpm.pcrs"}
    assert refused(TpmPolicy(pcrs={"sha256": {"7": ()}})) == {"tpm.pcr7"}


def test_a_register_that_is_not_quoted_or_in_another_bank_is_refused() -> None:
    assert refused(TpmPolicy(pcrs={"sha256": {"4": ("07" * 32,)}})) == {"tpm.pcr4"}
    assert refused(TpmPolicy(pcrs={"sha384": {"7": ("07" * 48,)}})) == {"tpm.pcr7"}


def test_a_key_that_nobody_vouches_for_is_refused() -> None:
    for root in (None, "ab" * 32):
        assert refused(TpmPolicy(pcrs=PCRS), ak_root=root) == {"tpm.trust"}
    assert refused(TpmPolicy(pcrs=PCRS, ak_roots=("ab" * 32,)), ak_root="ab" * 32) == set()
    assert refused(TpmPolicy(pcrs=PCRS, ak_roots=())) == {"tpm.trust"}


def test_a_google_key_whose_name_is_not_in_the_quote_is_refused() -> None:
    for hierarchy in (None, "owner"):
        assert refused(TpmPolicy(pcrs=PCRS), ak_hierarchy=hierarchy) == {"tpm.trust"}


def test_a_pinned_key_needs_a_known_maker_unless_the_policy_says_otherwise() -> None:
    pinned = TpmPolicy(pcrs=PCRS, ak_names=(NAME,), ek_roots=("cd" * 32,))
    assert refused(pinned, ak_root=None) == {"tpm.trust"}
    assert refused(pinned, ak_root=None, ek_root="cd" * 32) == set()
    emulator = TpmPolicy(pcrs=PCRS, ak_names=(NAME,), allow_unknown_ek=True)
    assert refused(emulator, ak_root=None) == set()
    assert refused(emulator, ak_root=None, ak_name="000b" + "bb" * 32) == {"tpm.trust"}


def test_project_firmware_clock_resets_and_log_are_held_to_what_is_demanded() -> None:
    strict = TpmPolicy(
        pcrs=PCRS,
        google_projects=("theirs",),
        firmware_versions=("0x2017",),
        require_safe_clock=True,
        minimum_reset_count=4,
        require_event_log=True,
    )
    assert refused(strict, safe=False) == {
        "tpm.google-project",
        "tpm.firmware",
        "tpm.clock",
        "tpm.reset-count",
        "tpm.log-demanded",
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pcrs", {"sha1": {"0": ["00" * 20]}}),
        ("pcrs", {"sha256": {"24": ["00" * 32]}}),
        ("pcrs", {"sha256": {"0": ["00" * 20]}}),
        ("pcrs", {"sha256": {"0": ["0" * 63 + "A"]}}),
        ("ak_names", ["aa" * 32]),
        ("ak_roots", ["microsoft"]),
        ("ek_roots", ["AA" * 32]),
        ("firmware_versions", ["2016"]),
        ("minimum_reset_count", -1),
    ],
)
def test_a_field_that_cannot_be_meant_is_named(field: str, value: Any) -> None:
    with pytest.raises(msgspec.ValidationError, match=field):
        msgspec.convert({field: value}, TpmPolicy)
