"""Whether an event's data is believed only where its digest is over it (a log replays with other data just as well)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from keep_attestation.event_log import (
    Event,
    EventType,
    Explanation,
    HashAlgorithm,
    explain,
    explained_digests,
    measured_data,
    parse_tcg_log,
)

SHA256, SHA384 = HashAlgorithm.SHA256, HashAlgorithm.SHA384


def over(measured: bytes, event_type: EventType, data: bytes) -> Event:
    return Event(1, event_type, {SHA256: SHA256.digest(measured), SHA384: SHA384.digest(measured)}, data)


def uefi_variable(name: str, value: bytes) -> bytes:
    return (
        bytes(16)
        + len(name).to_bytes(8, "little")
        + len(value).to_bytes(8, "little")
        + name.encode("utf-16-le")
        + value
    )


BOOT = uefi_variable("BootOrder", b"\x00\x00")


@pytest.mark.parametrize(
    ("event", "proved"),
    [
        (over(bytes(4), EventType.EV_SEPARATOR, bytes(4)), bytes(4)),
        (over(b"v1", EventType.EV_S_CRTM_VERSION, b"v1"), b"v1"),
        (over(b"Calling EFI", EventType.EV_EFI_ACTION, b"Calling EFI"), b"Calling EFI"),
        (over(BOOT, EventType.EV_EFI_VARIABLE_DRIVER_CONFIG, BOOT), BOOT),
        (over(BOOT, EventType.EV_EFI_VARIABLE_BOOT, BOOT), BOOT),
        (over(b"\x00\x00", EventType.EV_EFI_VARIABLE_BOOT, BOOT), b"\x00\x00"),
        (over(b"linux quiet", EventType.EV_IPL, b"grub_cmd: linux quiet\x00"), b"linux quiet"),
        (over(b"certificate", EventType.EV_EFI_VARIABLE_AUTHORITY, b"certificate!"), b"certificate"),
    ],
)
def test_data_that_the_digests_are_over_is_explained_and_given(event: Event, proved: bytes) -> None:
    assert explain(event) is Explanation.EXPLAINED
    assert explained_digests(event) == {SHA256, SHA384}
    assert measured_data(event) == proved


@pytest.mark.parametrize(
    "event_type",
    [
        EventType.EV_SEPARATOR,
        EventType.EV_S_CRTM_VERSION,
        EventType.EV_EFI_ACTION,
        EventType.EV_EFI_VARIABLE_DRIVER_CONFIG,
        EventType.EV_EFI_VARIABLE_BOOT,
        EventType.EV_EFI_VARIABLE_AUTHORITY,
    ],
)
def test_rewritten_data_beside_a_kept_digest_is_a_contradiction(event_type: EventType) -> None:
    event = replace(over(b"measured", event_type, b"measured"), data=b"rewritten")
    assert explain(event) is Explanation.CONTRADICTED
    assert measured_data(event) is None


@pytest.mark.parametrize("event_type", [EventType.EV_EFI_BOOT_SERVICES_APPLICATION, EventType.EV_IPL])
def test_data_beside_the_digest_of_an_image_is_a_hint_only(event_type: EventType) -> None:
    event = over(b"the image", event_type, b"/vmlinuz")
    assert explain(event) is Explanation.OPAQUE
    assert measured_data(event) is None


def test_one_bank_that_is_explained_does_not_explain_the_other() -> None:
    event = Event(1, EventType.EV_EFI_ACTION, {SHA256: SHA256.digest(b"a"), SHA384: SHA384.digest(b"b")}, b"a")
    assert explained_digests(event) == {SHA256}
    assert explain(event) is Explanation.CONTRADICTED


def test_an_event_without_digests_is_not_explained() -> None:
    assert explain(Event(1, EventType.EV_SEPARATOR, {}, bytes(4))) is Explanation.CONTRADICTED


def test_no_event_of_a_real_log_contradicts_itself(vectors: Path) -> None:
    logs = [*(vectors / "tdx").glob("*/ccel_data.bin"), *(vectors / "tpm").glob("*/event_log.bin")]
    assert logs
    for log in logs:
        found = [explain(event) for event in parse_tcg_log(log.read_bytes())]
        assert Explanation.CONTRADICTED not in found
        assert found.count(Explanation.EXPLAINED) > len(found) / 2
