"""Sealing counted by a real software TPM: what is older than the latest stays closed, whatever the disk says."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app_loader.attesters.tpm_commands import Tpm
from app_loader.attesters.tpm_transport import SocketTransport
from app_loader.attesters.tpm_wire import TpmError
from app_loader.sealing import tpm_counter
from app_loader.sealing.errors import RollbackError, SealingError
from app_loader.sealing.root_keys import KeyRing
from app_loader.sealing.sealer import Sealer
from app_loader.sealing.tpm_counter import TpmCounter
from app_loader.sealing.tpm_key import TpmSealedKey
from keep_manager.devices import free_counter
from keep_protocol.sealing_api import CounterSource
from keep_protocol.tpm_handles import FIRST_COUNTER, LAST_COUNTER, counter_index
from tests.swtpm import running_swtpm

KEEP = "0123456789abcdef"
LEDGER = "sealing-ledger"


class Machine:
    """A TPM that a keep borrows, and the keep's folder."""

    def __init__(self, tpm: Tpm, state: Path) -> None:
        self.tpm = tpm
        self.state = state
        self._one_at_a_time = threading.Lock()

    @contextmanager
    def borrowed(self) -> Iterator[Tpm]:
        with self._one_at_a_time:
            yield self.tpm

    def sealer(self, keep: str = KEEP) -> Sealer:
        """That of a keep which has just started."""
        key = TpmSealedKey(self.tpm, self.state, keep)
        return Sealer(KeyRing([key]), counter=TpmCounter(self.borrowed, key, self.state, keep))


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with running_swtpm() as path, Tpm(SocketTransport(str(path))) as tpm:
        yield Machine(tpm, tmp_path)


def test_only_the_latest_of_a_purpose_is_unsealed_without_a_counter_of_ones_own(machine: Machine) -> None:
    sealer = machine.sealer()
    old, first = sealer.seal(b"old", purpose="state")
    other, _ = sealer.seal(b"other", purpose="config")
    new, second = sealer.seal(b"new", purpose="state")
    assert first.counted_by is second.counted_by is CounterSource.TPM
    assert first.counter is not None
    assert second.counter is not None
    assert first.counter < second.counter
    for again in (sealer, machine.sealer()):
        assert again.unseal(new) == (b"new", second, True)
        assert again.unseal(other)[::2] == (b"other", True)
        with pytest.raises(RollbackError, match=f"counted {first.counter} for this envelope, and {second.counter}"):
            again.unseal(old)
        assert again.unseal(old, allow_rollback=True) == (b"old", first, False)


def test_what_was_counted_outlives_a_restart_of_the_machine(tmp_path: Path) -> None:
    seeds, state = tmp_path / "tpm", tmp_path / "state"
    seeds.mkdir()
    state.mkdir()
    envelopes: list[bytes] = []
    for data in (b"first boot", b"second boot"):
        with running_swtpm(state=seeds) as path, Tpm(SocketTransport(str(path))) as tpm:
            sealer = Machine(tpm, state).sealer()
            if envelopes:
                assert sealer.unseal(envelopes[0])[::2] == (b"first boot", True)
            envelopes.append(sealer.seal(data, purpose="state")[0])
    with running_swtpm(state=seeds) as path, Tpm(SocketTransport(str(path))) as tpm:
        sealer = Machine(tpm, state).sealer()
        assert sealer.unseal(envelopes[1])[0] == b"second boot"
        with pytest.raises(RollbackError, match="the latest"):
            sealer.unseal(envelopes[0])


def test_a_disk_that_was_set_back_brings_nothing_back(machine: Machine) -> None:
    sealer = machine.sealer()
    old, _ = sealer.seal(b"old", purpose="state")
    kept = machine.state / "kept"
    shutil.copy(machine.state / LEDGER, kept)
    sealer.seal(b"new", purpose="state")
    shutil.copy(kept, machine.state / LEDGER)
    with pytest.raises(RollbackError, match="an older list was put back"):
        machine.sealer().unseal(old)
    # What is sealed from here on can be told apart again, and what was in the old list stays out of date.
    newest, _ = machine.sealer().seal(b"newest", purpose="config")
    assert machine.sealer().unseal(newest)[0] == b"newest"
    with pytest.raises(RollbackError, match="nothing that was sealed for 'state'"):
        machine.sealer().unseal(old)


@pytest.mark.parametrize("damage", ["missing", "flipped", "empty", "of another keep"])
def test_a_list_that_the_keep_did_not_write_proves_nothing(machine: Machine, damage: str) -> None:
    sealed, _ = machine.sealer().seal(b"data", purpose="state")
    ledger = machine.state / LEDGER
    content = bytearray(ledger.read_bytes())
    if damage == "missing":
        ledger.unlink()
    elif damage == "of another keep":
        machine.sealer("f" * 16).seal(b"data", purpose="state")
    else:
        content[-3] ^= 1
        ledger.write_bytes(b"" if damage == "empty" else content)
    with pytest.raises(RollbackError, match="missing or damaged"):
        machine.sealer().unseal(sealed)
    assert machine.sealer().unseal(sealed, allow_rollback=True)[::2] == (b"data", False)


def test_a_keep_that_died_between_counting_and_noting_it_takes_nothing_old_for_the_latest(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, _ = machine.sealer().seal(b"old", purpose="state")

    def dies(path: Path, content: bytes) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(tpm_counter, "replace_file", dies)
        with pytest.raises(SealingError, match="sealing-ledger cannot be stored: No space left"):
            machine.sealer().seal(b"new", purpose="state")
    with pytest.raises(RollbackError, match="the keep died while it sealed"):
        machine.sealer().unseal(old)
    new, _ = machine.sealer().seal(b"new", purpose="state")
    assert machine.sealer().unseal(new)[0] == b"new"


def test_a_counter_that_was_removed_and_made_again_brings_nothing_back(machine: Machine) -> None:
    old, _ = machine.sealer().seal(b"old", purpose="state")
    machine.tpm.remove_nv(counter_index(KEEP))
    with pytest.raises(RollbackError, match="TPM_RC_HANDLE"):
        machine.sealer().unseal(old)
    machine.sealer().seal(b"new", purpose="config")
    with pytest.raises(RollbackError, match="nothing that was sealed"):
        machine.sealer().unseal(old)


def test_an_index_of_somebody_else_is_said_and_left_alone(machine: Machine) -> None:
    index = counter_index(KEEP)
    machine.tpm.define_counter(index, b"somebody else's")
    with pytest.raises(SealingError, match=rf"{index:#010x} cannot be used: .*TPM_RC_BAD_AUTH.*remove that index"):
        machine.sealer().seal(b"data", purpose="state")
    sealed, header = machine.sealer().seal(b"data", purpose="state", counter=7)
    assert (header.counter, header.counted_by) == (7, CounterSource.OWNER)
    assert machine.sealer().unseal(sealed, expected_counter=7)[::2] == (b"data", True)
    with pytest.raises(RollbackError, match="`expected_counter`, or `allow_rollback`"):
        machine.sealer().unseal(sealed)


def test_a_callers_own_counter_decides_alone_and_costs_the_tpm_nothing(machine: Machine) -> None:
    sealer = machine.sealer()
    old, header = sealer.seal(b"old", purpose="state")
    assert header.counter is not None
    sealer.seal(b"new", purpose="state")
    before = machine.tpm.read_counter(counter_index(KEEP), auth_of(machine))
    sealer.seal(b"own", purpose="state", counter=1)
    assert machine.tpm.read_counter(counter_index(KEEP), auth_of(machine)) == before
    assert sealer.unseal(old, expected_counter=header.counter)[::2] == (b"old", True)
    with pytest.raises(RollbackError, match="lowest that is accepted"):
        sealer.unseal(old, expected_counter=header.counter + 1, allow_rollback=True)


def auth_of(machine: Machine) -> bytes:
    counter = TpmCounter(machine.borrowed, TpmSealedKey(machine.tpm, machine.state, KEEP), machine.state, KEEP)
    return counter._auth


def test_purposes_are_bounded(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tpm_counter, "MAX_PURPOSES", 2)
    sealer = machine.sealer()
    sealer.seal(b"data", purpose="a")
    sealed, _ = sealer.seal(b"data", purpose="b")
    with pytest.raises(SealingError, match="2 purposes already"):
        sealer.seal(b"data", purpose="c")
    # Refused before it was counted: what there is stays the latest.
    assert sealer.unseal(sealed)[0] == b"data"


def test_a_removed_keeps_counter_is_freed_and_that_of_another_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with running_swtpm() as path:
        with Tpm(SocketTransport(str(path))) as tpm:
            machine = Machine(tpm, tmp_path)
            machine.sealer().seal(b"data", purpose="state")
            tpm.define_counter(counter_index("f" * 16))
            tpm.increment_counter(counter_index("f" * 16))
        free_counter(KEEP, path)
        free_counter(KEEP, path)
        assert caplog.records == []
        with Tpm(SocketTransport(str(path))) as tpm:
            with pytest.raises(TpmError, match="TPM_RC_HANDLE"):
                tpm.read_counter(counter_index(KEEP))
            assert tpm.read_counter(counter_index("f" * 16)) > 0
    free_counter(KEEP, path)
    assert f"NV index {counter_index(KEEP):#010x} stays in the TPM" in caplog.text


def test_indices_are_in_the_owners_range_and_follow_from_the_id() -> None:
    indices = {counter_index(f"{number:016x}") for number in range(1000)}
    assert len(indices) > 990
    assert all(0x01800000 <= FIRST_COUNTER <= index <= LAST_COUNTER <= 0x01BFFFFF for index in indices)
    assert counter_index(KEEP) == counter_index(KEEP)
