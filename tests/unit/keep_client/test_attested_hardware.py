"""An SNP keep from the kernel's device to the client's verdict; only chip, AMD and kernel are made here."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from functools import partial

import pytest

import keep_client.attested_peer
from app_loader.attesters.sev_guest import SevGuestAttester
from keep_attestation.policy import Policy, parse_policy
from keep_attestation.ratls.peer import PeerVerdict, verify_fresh, verify_peer
from keep_attestation.snp.products import Product
from keep_attestation.snp.report import HOST_REQUESTED_VMPL
from keep_attestation.snp.verifier import examine_snp
from keep_attestation.trusted_time import TimeFloor
from keep_attestation.verification import Examiner
from keep_client import Credentials, EvidenceRefusedError, new_spec
from keep_protocol.evidence import EvidenceKind
from keep_protocol.states import Backend
from tests.unit.app_loader.attesters.certificate_tables import VCEK, table_of
from tests.unit.app_loader.attesters.fake_sev_guest import FakeSevGuest
from tests.unit.app_loader.pki import self_signed
from tests.unit.keep_attestation.snp.forge import MEASUREMENT, NOW, FakeChip, fake_amd
from tests.unit.keep_client.attested_keeps import (
    CHALLENGE_SIZE,
    Ask,
    Proof,
    ScriptedKeep,
    Seen,
    ask_async,
    ask_sync,
    ok,
    peer_for,
)

DEBUG = 1 << 19
REQUIRED_BIT = 1 << 17

both = pytest.mark.parametrize("ask", [ask_sync, ask_async], ids=["sync", "async"])


@pytest.fixture(scope="module")
def chip() -> FakeChip:
    return fake_amd(Product.GENOA).vcek()


def judged(monkeypatch: pytest.MonkeyPatch, examine: Examiner | None = None) -> None:
    for verify in (verify_peer, verify_fresh):
        monkeypatch.setattr(keep_client.attested_peer, verify.__name__, partial(verify, examine=examine))
    # At the time of the fake chips' certificates, which is before this package.
    monkeypatch.setattr(TimeFloor, "now", lambda floor: NOW)


@pytest.fixture
def amd_is_fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's verifier, as if the fake AMD's keys were the pinned ones, on a day when they are valid."""
    judged(monkeypatch, partial(examine_snp, anchors=fake_amd(Product.GENOA).anchors))


@pytest.fixture
def amd_is_real(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's verifier as it is, on the same day."""
    judged(monkeypatch)


def policy(measurement: bytes = MEASUREMENT) -> Policy:
    return parse_policy(f'name = "production"\n[snp]\nmeasurements = ["{measurement.hex()}"]\n')


def proof_of(chip: FakeChip, **fields: int | bytes) -> Proof:
    """A keep in a guest on `chip`, whose reports have these fields."""
    device = FakeSevGuest(
        lambda report_data: chip.report(report_data=report_data, **fields), table_of((VCEK, chip.certificate))
    )
    spec = new_spec(principals=[self_signed().pinned()], backend=Backend.SNP, evidence=EvidenceKind.SNP)
    return Proof(spec=spec, attester=SevGuestAttester(device), clock=NOW.timestamp)


def asked(ask: Ask, proof: Proof, policy: Policy, credentials: Credentials) -> tuple[list[Seen], list[str]]:
    """What the keep saw, and the checks that it failed."""
    verdicts: list[PeerVerdict] = []
    peer = dataclasses.replace(peer_for(proof.spec, policy=policy), observe=verdicts.append)
    with ScriptedKeep(proof.identity, lambda challenge: ok(proof.collection(challenge))) as keep:
        with suppress(EvidenceRefusedError):
            ask(keep.endpoint, peer, credentials)
        return keep.finished(), [check.name for verdict in verdicts for check in verdict.verdict.failures]


@both
@pytest.mark.usefixtures("amd_is_fake")
def test_a_keep_whose_reports_satisfy_the_policy_is_spoken_to(
    ask: Ask, chip: FakeChip, credentials: Credentials
) -> None:
    (seen,), failed = asked(ask, proof_of(chip), policy(), credentials)
    assert failed == []
    assert len(seen.application) > CHALLENGE_SIZE
    assert seen.certificate is not None


@both
@pytest.mark.usefixtures("amd_is_fake")
@pytest.mark.parametrize(
    ("fields", "checks"),
    [
        ({"policy": REQUIRED_BIT | DEBUG}, ["snp.debug"]),
        ({"policy": REQUIRED_BIT | 1 << 18}, ["snp.migration_agent"]),
        ({"vmpl": 1}, ["snp.vmpl"]),
        ({"vmpl": HOST_REQUESTED_VMPL}, ["snp.guest_requested", "snp.vmpl"]),
        ({"measurement": bytes(48)}, ["snp.measurement"]),
        ({"chip_id": bytes(64)}, ["snp.chip_id"]),
    ],
    ids=["debug", "migration agent", "another VMPL", "requested by the host", "other code", "another chip"],
)
def test_a_report_with_anything_amiss_is_refused_before_a_byte_is_sent(
    ask: Ask, fields: dict[str, int | bytes], checks: list[str], chip: FakeChip, credentials: Credentials
) -> None:
    (seen,), failed = asked(ask, proof_of(chip, **fields), policy(), credentials)
    assert failed == checks
    assert (seen.application, seen.certificate) == (b"", None)


@both
@pytest.mark.usefixtures("amd_is_real")
def test_a_chip_of_anybody_but_amd_is_refused_before_a_byte_is_sent(
    ask: Ask, chip: FakeChip, credentials: Credentials
) -> None:
    (seen,), failed = asked(ask, proof_of(chip), policy(), credentials)
    assert failed == ["snp.chain"]
    assert (seen.application, seen.certificate) == (b"", None)
