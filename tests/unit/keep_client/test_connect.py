"""Tests of `keep_client.connect`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from keep_client import (
    AsyncManagerClient,
    ImpostorError,
    InvalidArgumentError,
    KeepPin,
    KeyMismatchError,
    ManagerClient,
    ProblemError,
    ProtocolError,
    connect_keep,
    connect_keep_async,
)
from keep_protocol.errors import ErrorCode
from keep_protocol.keep_api import KeepStatus, RunRequest, WorkloadInfo
from keep_protocol.manager_api import KeepRecord
from keep_protocol.states import Backend, WorkloadState
from tests.unit.keep_client.certificates import Pair, keep_certificate
from tests.unit.keep_client.conftest import StartManager
from tests.unit.keep_client.servers import (
    ApiServer,
    Received,
    Reply,
    json_reply,
    problem_reply,
    server_context,
    serving,
)

KEEP_ID = "0123456789abcdef"
SPEC = "5" * 64


def _record(pair: Pair, endpoint: str, invocation: str) -> KeepRecord:
    spki = KeepPin.from_certificate(pair.certificate).spki_sha256
    return KeepRecord(KEEP_ID, endpoint, pair.certificate, spki, Backend.PROCESS, None, SPEC, invocation)


def _status(invocation: str, spec: str = SPEC) -> KeepStatus:
    workload = WorkloadInfo(WorkloadState.EMPTY)
    return KeepStatus(KEEP_ID, "0", Backend.PROCESS, spec, invocation, "", workload, 0, 0, 0, ())


class _Host:
    """A keep that can be replaced, and a manager that says of it what a test wants."""

    def __init__(self, stack: ExitStack, folder: Path, start_manager: StartManager) -> None:
        self.folder = folder
        self.keep = ApiServer(server_context(keep := keep_certificate(), folder), lambda _: json_reply(_status("one")))
        stack.enter_context(serving(self.keep))
        self.answers: list[KeepRecord | Reply] = [_record(keep, self.keep.endpoint, "one")]
        self.server, self.manager = start_manager(self._respond)

    def reborn(self, invocation: str) -> KeepRecord:
        """The keep's process is another one now, with another key at the same endpoint."""
        pair = keep_certificate()
        self.keep.context = server_context(pair, self.folder)
        self.keep.respond = lambda _: json_reply(_status(invocation))
        self.keep.hang_up()
        return _record(pair, self.keep.endpoint, invocation)

    def _respond(self, received: Received) -> Reply:
        assert received.path.endswith("/record")
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return answer if isinstance(answer, Reply) else json_reply(answer)


@pytest.fixture
def host(stack: ExitStack, tmp_path: Path, start_manager: StartManager) -> _Host:
    return _Host(stack, tmp_path, start_manager)


Ask = Callable[[_Host, Callable[[], object]], list[str]]


def _ask_twice(host: _Host, between: Callable[[], object]) -> list[str]:
    with connect_keep(host.manager, KEEP_ID) as keep:
        first = keep.verify().invocation
        between()
        return [first, keep.verify().invocation]


def _ask_twice_async(host: _Host, between: Callable[[], object]) -> list[str]:
    async def ask() -> list[str]:
        old: ManagerClient = host.manager
        async with (
            AsyncManagerClient(old.url, ca=old.ca, credentials=old.credentials) as manager,
            await connect_keep_async(manager, KEEP_ID) as keep,
        ):
            first = (await keep.verify()).invocation
            between()
            return [first, (await keep.verify()).invocation]

    return asyncio.run(ask())


both = pytest.mark.parametrize("ask", [_ask_twice, _ask_twice_async], ids=["sync", "async"])


@both
def test_a_restarted_keep_is_verified_again_and_used_further(host: _Host, ask: Ask) -> None:
    def restart() -> None:
        host.answers[:] = [host.reborn("two")]

    assert ask(host, restart) == ["one", "two"]


@both
def test_another_key_in_the_same_invocation_is_an_impostor_and_gets_nothing(host: _Host, ask: Ask) -> None:
    with pytest.raises(ImpostorError, match="has not been restarted"):
        ask(host, lambda: host.reborn("one"))
    assert len(host.keep.received) == 1


@both
def test_a_restarted_keep_with_another_spec_is_an_impostor(host: _Host, ask: Ask) -> None:
    def exchange() -> None:
        host.answers[:] = [msgspec.structs.replace(host.reborn("two"), spec_digest="6" * 64)]

    with pytest.raises(ImpostorError, match="a spec never changes"):
        ask(host, exchange)
    assert len(host.keep.received) == 1


@both
def test_a_keep_that_is_just_being_restarted_is_waited_for(host: _Host, ask: Ask) -> None:
    def restart() -> None:
        starting = problem_reply(ErrorCode.KEEP_STATE_CONFLICT, "the keep is starting")
        host.answers[:] = [starting, starting, host.reborn("two")]

    assert ask(host, restart) == ["one", "two"]


def test_a_new_record_that_does_not_fit_either_is_a_mismatch(host: _Host) -> None:
    def restart() -> None:
        host.reborn("two")
        host.answers[:] = [_record(keep_certificate(), host.keep.endpoint, "two")]

    with pytest.raises(KeyMismatchError):
        _ask_twice(host, restart)
    assert len(host.keep.received) == 1


def test_a_call_that_must_not_be_repeated_is_sent_once_after_a_restart(host: _Host) -> None:
    with connect_keep(host.manager, KEEP_ID) as keep:
        keep.verify()
        host.answers[:] = [host.reborn("two")]
        host.keep.respond = lambda _: problem_reply(ErrorCode.WORKLOAD_EMPTY, "nothing is loaded")
        with pytest.raises(ProblemError, match="nothing is loaded"):
            keep.start_run(RunRequest())
    assert [request.method for request in host.keep.received] == ["GET", "POST"]


def test_an_unknown_keep_is_a_problem_with_its_code(host: _Host) -> None:
    host.answers[:] = [problem_reply(ErrorCode.KEEP_NOT_FOUND, "there is no keep x", remedy="list them")]
    with pytest.raises(ProblemError) as caught:
        connect_keep(host.manager, "x")
    assert (caught.value.code, caught.value.status, caught.value.remedy) == (ErrorCode.KEEP_NOT_FOUND, 404, "list them")


def test_a_manager_that_answers_for_another_keep_than_the_one_with_this_id_is_refused(host: _Host) -> None:
    host.answers[:] = [msgspec.structs.replace(_record(keep_certificate(), host.keep.endpoint, "one"), id="f" * 16)]
    expected = f"the manager answers for keep '{'f' * 16}', not for {KEEP_ID}"
    with pytest.raises(InvalidArgumentError, match=expected):
        connect_keep(host.manager, KEEP_ID)
    old = host.manager

    async def connect() -> None:
        async with AsyncManagerClient(old.url, ca=old.ca, credentials=old.credentials) as manager:
            await connect_keep_async(manager, KEEP_ID)

    with pytest.raises(InvalidArgumentError, match=expected):
        asyncio.run(connect())
    assert host.keep.received == []


def test_a_record_whose_digest_is_not_that_of_its_certificate_is_refused(host: _Host) -> None:
    record = _record(keep_certificate(), host.keep.endpoint, "one")
    host.answers[:] = [msgspec.structs.replace(record, spki_sha256="0" * 64)]
    with pytest.raises(ProtocolError, match="contradicts itself"):
        connect_keep(host.manager, KEEP_ID)


@pytest.mark.parametrize(
    ("status", "words"), [(_status("two"), "invocation"), (_status("one", "6" * 64), "spec digest")]
)
def test_a_keep_that_contradicts_its_record_is_not_verified(host: _Host, status: KeepStatus, words: str) -> None:
    host.keep.respond = lambda _: json_reply(status)
    with connect_keep(host.manager, KEEP_ID) as keep, pytest.raises(ProtocolError, match=words):
        keep.verify()
