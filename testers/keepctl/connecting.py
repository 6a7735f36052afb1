"""Connections to keeps, each held to what is known of it: a policy that was given or remembered, else a pinned key."""

from __future__ import annotations

from pathlib import Path

from keep_client import InvalidArgumentError, KeepClient, ManagerClient, connect_keep
from testers.deployment import Deployment
from testers.keepctl.trust_store import TrustStore, policy_from_file


def open_keep(manager: ManagerClient, deployment: Deployment, ref: str, policy: Path | None = None) -> KeepClient:
    """A client for the keep with this id or name. Raises `InvalidArgumentError` for one that must prove itself, when
    nobody has said to what.

    Once a keep is in the trust store the manager's word that it has no evidence, or is another one, counts no more.
    """
    known = TrustStore.of(deployment).find(ref)
    demanded = policy_from_file(policy) if policy is not None else None if known is None else known.load_policy()
    if demanded is None:
        return _open_pinned(manager, ref, must_prove=known is not None)
    if known is not None and known.evidence is not None:
        # A policy may accept several kinds; this keep was made to prove itself with one.
        demanded = demanded.only(known.evidence)
    return connect_keep(
        manager,
        ref if known is None else known.keep,
        policy=demanded,
        spec_digest=None if known is None else known.spec_digest,
    )


def _no_policy(ref: str, evidence: str | None) -> InvalidArgumentError:
    kind = "" if evidence is None else f"{evidence} "
    return InvalidArgumentError(
        f"keep {ref} proves itself with {kind}evidence, and no policy for it is known: look at it with "
        f"`keepctl trust {ref}`, or give --policy FILE"
    )


def _open_pinned(manager: ManagerClient, ref: str, *, must_prove: bool) -> KeepClient:
    if must_prove:
        raise _no_policy(ref, None)
    try:
        return connect_keep(manager, ref)
    except InvalidArgumentError:
        # Asked again only to say it better: for keeps without evidence it is one question.
        evidence = manager.get_record(ref).evidence
        if evidence is None:
            raise
        raise _no_policy(ref, evidence) from None
