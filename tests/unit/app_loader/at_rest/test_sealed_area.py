"""The area `sealed`: envelopes for clients and plaintext for runs, in keeps of either kind."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.keep_api import Mount, RunRequest
from keep_protocol.sealing_api import FILE_PURPOSE, Selector
from keep_protocol.states import AtRest, FileArea
from tests.unit.app_loader.at_rest.sealed_keep import CANARY, DATA, OTHER_KEY, SEALED, get, on_disk, put
from tests.unit.app_loader.execution_harness import SPINS, Execution, ending, execute, guest, refused, spec, wat

MOUNT = Mount(guest="/sealed", area=FileArea.SEALED, writable=True)


@pytest.mark.parametrize("at_rest", AtRest)
def test_guests_see_plaintext_and_clients_envelopes_that_unseal_opens(tmp_path: Path, at_rest: AtRest) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(guest("write_file"))
        run = await keep.run(RunRequest(args=("/sealed/f", CANARY.decode()), mounts=(MOUNT,)))
        assert ending(run).code == 0
        envelope = await get(keep, "f", FileArea.SEALED)
        assert envelope.startswith(b"KSE1")
        assert CANARY not in envelope
        content, header, _ = (await keep.sealer()).unseal(envelope, purpose=FILE_PURPOSE, allow_rollback=True)
        assert (content, header.key.selectors) == (CANARY, (Selector.KEEP,))
        await keep.files.delete(FileArea.SEALED, "f")
        await put(keep, "back", envelope, FileArea.SEALED)
        await keep.load(guest("read_file"))
        run = await keep.run(RunRequest(args=("/sealed/back",), mounts=(MOUNT,)))
        assert await keep.stdout(run) == CANARY
        assert await get(keep, "back", FileArea.SEALED) == envelope
        if at_rest is AtRest.SEALED:
            assert on_disk(tmp_path, CANARY) == []

    execute(tmp_path, scenario, spec(at_rest=at_rest))


def test_envelopes_that_do_not_open_refuse_the_run_by_name_and_reason(tmp_path: Path) -> None:
    async def other(keep: Execution) -> bytes:
        sealed, _ = (await keep.sealer()).seal(b"x", purpose="file")
        return sealed

    (tmp_path / "other").mkdir()
    foreign = execute(tmp_path / "other", other, SEALED, host_keys=(OTHER_KEY,))
    (tmp_path / "keep").mkdir()

    async def scenario(keep: Execution) -> None:
        await keep.load(guest("read_file"))
        with refused(ErrorCode.SEALED_INVALID):
            await put(keep, "f", b"no envelope", FileArea.SEALED)
        await put(keep, "foreign", foreign, FileArea.SEALED)
        with pytest.raises(RefusalError, match=r"sealed/foreign: the key host .* is not one of") as refusal:
            await keep.run(RunRequest(mounts=(MOUNT,)))
        assert refusal.value.code is ErrorCode.SEALING_KEY_UNKNOWN
        await keep.files.delete(FileArea.SEALED, "foreign")
        assert ending(await keep.run(RunRequest(mounts=(MOUNT,)))).code is not None

    execute(tmp_path / "keep", scenario, SEALED)


def test_what_no_key_here_can_be_bound_to_is_refused(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(guest("read_file"))
        chip = msgspec.structs.replace(MOUNT, bind=(Selector.CHIP,))
        with pytest.raises(RefusalError, match="cannot be bound to chip") as refusal:
            await keep.run(RunRequest(mounts=(chip,)))
        assert refusal.value.code is ErrorCode.FIELD_INVALID
        elsewhere = Mount(guest="/d", area=DATA, bind=(Selector.KEEP,))
        with refused(ErrorCode.FIELD_INVALID):
            await keep.run(RunRequest(mounts=(elsewhere,)))

    execute(tmp_path, scenario, SEALED)


def test_an_envelope_put_while_a_run_goes_is_plaintext_for_it(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        sealed, _ = (await keep.sealer()).seal(CANARY, purpose="anything")
        await keep.load(wat(SPINS))
        run = await keep.runs.start(RunRequest(mounts=(MOUNT,)))
        await keep.spinning(run)
        await put(keep, "f", sealed, FileArea.SEALED)
        assert (keep.files.mounted(FileArea.SEALED) / "f").read_bytes() == CANARY
        assert await get(keep, "f", FileArea.SEALED) == sealed
        await asyncio.shield(keep.runs.stop(run.id))

    execute(tmp_path, scenario, SEALED)
