"""From a manager's record of a keep to a client that accepts exactly that keep, over its restarts too."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from keep_client.async_keep import AsyncKeepClient
from keep_client.async_manager import AsyncManagerClient
from keep_client.connections import KeepPeer
from keep_client.credentials import Credentials
from keep_client.errors import InvalidArgumentError, ProblemError
from keep_client.keep import KeepClient
from keep_client.keep_calls import pause
from keep_client.manager import ManagerClient
from keep_client.pins import KeepPin
from keep_protocol.errors import ErrorCode
from keep_protocol.manager_api import Keep, KeepRecord
from keep_protocol.names import is_keep_id

if TYPE_CHECKING:
    from keep_attestation.endorsement_sources.interface import EndorsementSource
    from keep_attestation.policy import Policy

RESTART_PATIENCE = 15.0
"""Seconds for which a keep that is just being restarted may have no record."""


def connect_keep(
    manager: ManagerClient,
    keep: str | Keep,
    *,
    credentials: Credentials | None = None,
    policy: Policy | None = None,
    spec_digest: str | None = None,
    workload_digest: str | None = None,
    configuration_digest: str | None = None,
    sources: tuple[EndorsementSource, ...] = (),
) -> KeepClient:
    """A client for a keep, as whom the manager knows us unless told otherwise.

    The keep is named by its id or name, or given as the manager has just told of it, which saves asking again.
    With `policy` the manager is trusted for the address alone: the keep proves what it is on every connection, and
    that it was started from the spec, has loaded the workload, and has for it the configuration, of these SHA-256
    digests in hex; `sources` are asked for endorsements that the keep does not send along. A keep that has
    evidence is not connected to without a policy. Nothing is sent to the keep yet; `verify()` does that.
    """
    found = manager.get_record(keep) if isinstance(keep, str) else keep
    check_answered_for(keep if isinstance(keep, str) else keep.id, found.id)
    return KeepClient(
        found.endpoint,
        _peer(found, policy, spec_digest, workload_digest, configuration_digest, sources),
        credentials=credentials or manager.credentials,
        fetch_record=lambda: _record_after_restart(manager, found.id),
    )


async def connect_keep_async(
    manager: AsyncManagerClient,
    keep: str | Keep,
    *,
    credentials: Credentials | None = None,
    policy: Policy | None = None,
    spec_digest: str | None = None,
    workload_digest: str | None = None,
    configuration_digest: str | None = None,
    sources: tuple[EndorsementSource, ...] = (),
) -> AsyncKeepClient:
    """The twin of `connect_keep`."""
    found = await manager.get_record(keep) if isinstance(keep, str) else keep
    check_answered_for(keep if isinstance(keep, str) else keep.id, found.id)
    return AsyncKeepClient(
        found.endpoint,
        _peer(found, policy, spec_digest, workload_digest, configuration_digest, sources),
        credentials=credentials or manager.credentials,
        fetch_record=lambda: _record_after_restart_async(manager, found.id),
    )


def check_answered_for(asked: str, answered: str) -> None:
    """Refuse an answer about another keep than the one that was asked for by its id.

    A name is the manager's to resolve, an id is not. Raises `InvalidArgumentError`.
    """
    if is_keep_id(asked) and answered != asked:
        raise InvalidArgumentError(f"the manager answers for keep {answered!a}, not for {asked}: refused")


def _peer(
    found: Keep | KeepRecord,
    policy: Policy | None,
    spec_digest: str | None,
    workload_digest: str | None,
    configuration_digest: str | None,
    sources: tuple[EndorsementSource, ...],
) -> KeepPeer:
    if policy is None:
        if found.evidence is not None:
            raise InvalidArgumentError(
                f"keep {found.id} proves itself with {found.evidence} evidence: give the policy that it must satisfy"
            )
        return _pin(found)
    # Verifiers cost tens of milliseconds to import, and most clients pin.
    from keep_attestation.ratls.peer import ExpectedKeep
    from keep_client.attested_peer import AttestedPeer

    expected = ExpectedKeep(
        keep=found.id,
        spec_sha256=_digest(spec_digest, "spec_digest"),
        workload_sha256=_digest(workload_digest, "workload_digest"),
        configuration_sha256=_digest(configuration_digest, "configuration_digest"),
    )
    return AttestedPeer(policy, expected, sources)


def _digest(text: str | None, name: str) -> bytes | None:
    if text is None:
        return None
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise InvalidArgumentError(f"{name} is {text!r}: expected a SHA-256 digest, 64 hex digits")
    return digest


def _pin(found: Keep | KeepRecord) -> KeepPin:
    return KeepPin.from_record(found) if isinstance(found, KeepRecord) else KeepPin.from_keep(found)


def _record_after_restart(manager: ManagerClient, keep_id: str) -> KeepRecord:
    deadline = time.monotonic() + RESTART_PATIENCE
    attempt = 0
    while True:
        try:
            return manager.get_record(keep_id)
        except ProblemError as problem:
            if not _is_restarting(problem, deadline):
                raise
        time.sleep(pause(attempt))
        attempt += 1


async def _record_after_restart_async(manager: AsyncManagerClient, keep_id: str) -> KeepRecord:
    deadline = time.monotonic() + RESTART_PATIENCE
    attempt = 0
    while True:
        try:
            return await manager.get_record(keep_id)
        except ProblemError as problem:
            if not _is_restarting(problem, deadline):
                raise
        await asyncio.sleep(pause(attempt))
        attempt += 1


def _is_restarting(problem: ProblemError, deadline: float) -> bool:
    return problem.code == ErrorCode.KEEP_STATE_CONFLICT and time.monotonic() < deadline
