"""A keep that puts evidence into its certificate, from the request for it to ready, against the same keep without."""

from __future__ import annotations

import time
from functools import partial

from benchmarks.measurement import Comparison, Omission, Row, Sample, Target, interleaved
from benchmarks.session import Client, Session
from keep_client import Home, new_spec, principal_of
from keep_protocol.evidence import EvidenceKind
from keep_protocol.spec import Principal
from keep_protocol.states import KeepRole

_TARGET = Target(Comparison.RATIO, 1.2)


def measure(session: Session) -> list[Row | Omission]:
    """Simulated evidence: what hardware takes to sign comes on top of it."""
    with session.deployment() as deployment, session.client(deployment) as client:
        home = Home(deployment.home)
        ca = home.client_ca.read_text()
        owner = principal_of(home.operator.certificate.read_text(), [KeepRole.OWNER], client_ca=ca)
        with_evidence, without = interleaved(
            session.rounds, partial(_ready, client, owner, EvidenceKind.SIMULATED), partial(_ready, client, owner, None)
        )
    return [
        Row(
            "create a keep that emits (simulated) evidence → ready",
            "the same keep without evidence",
            Sample("ms", with_evidence),
            Sample("ms", without),
            _TARGET,
        )
    ]


def _ready(client: Client, owner: Principal, evidence: EvidenceKind | None) -> float:
    spec = new_spec(principals=[owner], evidence=evidence)
    started = time.perf_counter()
    keep = client.manager.create_keep(spec)
    elapsed = time.perf_counter() - started
    client.manager.remove_keep(keep.id)
    if keep.evidence is not evidence:
        raise RuntimeError(f"the keep emits {keep.evidence}, not {evidence}")
    return elapsed * 1000
