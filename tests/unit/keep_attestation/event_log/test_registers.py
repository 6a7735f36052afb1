"""Whether replaying a log gives the registers that quotes sign, and nothing that was not extended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keep_attestation.errors import MalformedEvidenceError
from keep_attestation.event_log import EventType, HashAlgorithm, parse_tcg_log, replay, replay_ccel
from keep_attestation.event_log.event import Event
from keep_attestation.event_log.registers import rtmr_mismatch
from tests.unit.keep_attestation.event_log.forge import agile_log, measured

SHA256 = HashAlgorithm.SHA256
SEPARATOR = SHA256.digest(bytes(4))


def event(register: int, digest: bytes = SEPARATOR) -> Event:
    return Event(register, EventType.EV_SEPARATOR, {SHA256: digest}, bytes(4))


def locality(number: int) -> Event:
    return Event(0, EventType.EV_NO_ACTION, {SHA256: bytes(32)}, b"StartupLocality\x00" + bytes([number]))


def test_each_event_is_extended_into_its_register_in_order() -> None:
    once = SHA256.digest(bytes(32) + SEPARATOR)
    twice = SHA256.digest(once + b"d" * 32)
    assert replay([event(4), event(7), event(4, b"d" * 32)], SHA256) == {4: twice, 7: once}


def test_events_without_action_are_not_extended() -> None:
    assert replay([Event(5, EventType.EV_NO_ACTION, {SHA256: SEPARATOR}, b"note")], SHA256) == {}


def test_startup_locality_is_where_pcr_0_begins() -> None:
    assert replay([locality(3), event(0)], SHA256) == {0: SHA256.digest(bytes(31) + b"\x03" + SEPARATOR)}


@pytest.mark.parametrize("events", [[event(0), locality(3)], [locality(3), locality(4)], [locality(7)]])
def test_a_startup_locality_that_is_late_repeated_or_impossible_is_refused(events: list[Event]) -> None:
    with pytest.raises(MalformedEvidenceError):
        replay(events, SHA256)


def test_an_event_without_a_digest_of_the_bank_is_refused_not_skipped() -> None:
    with pytest.raises(MalformedEvidenceError, match="no SHA384 digest"):
        replay([event(1)], HashAlgorithm.SHA384)


def test_a_register_that_no_tpm_has_is_refused() -> None:
    with pytest.raises(MalformedEvidenceError, match="PCR 24"):
        replay([event(24)], SHA256)


def test_indexes_1_to_4_are_rtmr0_to_rtmr3_and_index_0_is_none() -> None:
    log = agile_log([measured(index, EventType.EV_IPL, b"data") for index in (0, 1, 4)])
    once = HashAlgorithm.SHA384.digest(bytes(48) + HashAlgorithm.SHA384.digest(b"data"))
    assert replay_ccel(parse_tcg_log(log)) == {0: once, 1: bytes(48), 2: bytes(48), 3: once}


def test_an_index_beyond_rtmr3_is_refused() -> None:
    with pytest.raises(MalformedEvidenceError, match="register index 5"):
        replay_ccel(parse_tcg_log(agile_log([measured(5, EventType.EV_IPL, b"data")])))


def test_a_mismatch_names_the_register_and_both_values() -> None:
    assert rtmr_mismatch({0: b"a", 1: b"b"}, {0: b"a", 1: b"b"}) is None
    assert rtmr_mismatch({0: b"a", 1: b"b"}, {0: b"a", 1: b"c"}) == "RTMR1 is 62 in the quote, the log replays to 63"


def test_real_ccel_logs_replay_to_the_quoted_registers(vectors: Path) -> None:
    folders = [path.parent for path in (vectors / "tdx").glob("*/ccel_data.bin")]
    assert folders
    for folder in folders:
        facts = json.loads((folder / "expected.json").read_text())["facts"]
        registers = replay_ccel(parse_tcg_log((folder / "ccel_data.bin").read_bytes(), crypto_agile=True))
        assert {f"rt_mr{number}": value.hex() for number, value in registers.items()}.items() <= facts.items()


def test_real_tpm_logs_replay_to_the_quoted_pcrs(vectors: Path) -> None:
    folders = [path.parent for path in (vectors / "tpm").glob("*/event_log.bin")]
    assert folders
    for folder in folders:
        bank = json.loads((folder / "expected.json").read_text())["facts"]["pcr_selection"][0][0]
        quoted = json.loads((folder / "pcrs.json").read_text())
        registers = replay(parse_tcg_log((folder / "event_log.bin").read_bytes()), HashAlgorithm(int(bank, 16)))
        assert {number: value.hex() for number, value in registers.items()} == {
            number: quoted[str(number)] for number in range(10)
        }
