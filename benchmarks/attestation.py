"""One SEV-SNP report with its chain, verified in a process that has seen the chip before, against bare signatures."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from benchmarks.measurement import Comparison, Omission, Row, Sample, Target, interleaved
from benchmarks.session import Session
from keep_attestation.policy import Policy
from keep_attestation.snp.policy import SnpPolicy
from keep_attestation.snp.verifier import examine_snp
from keep_attestation.verification import verify
from tests.unit.keep_attestation.snp.forge import MEASUREMENT, NOW, FakeAmd, FakeChip, fake_amd

_TARGET = Target(Comparison.RATIO, 2.0)
_REPETITIONS = 20
"""Verifications per reading: one takes less than a millisecond."""


def measure(session: Session) -> list[Row | Omission]:
    """Each report is another one of the same chip, so nothing that is remembered of reports could help."""
    amd = fake_amd(rsa_bits=4096)
    chip = amd.vcek()
    verified, bare = interleaved(5 * session.rounds, _verification(amd, chip), _signatures(amd, chip))
    return [
        Row(
            "verify one SNP report with its chain by a policy, warm (`keep_attestation.verify`)",
            "2 × ECDSA P-384 and 2 × RSA-4096-PSS verified by `cryptography` alone",
            Sample("ms", verified),
            Sample("ms", bare),
            _TARGET,
        )
    ]


def _verification(amd: FakeAmd, chip: FakeChip) -> Callable[[], float]:
    policy = Policy(snp=(SnpPolicy(measurements=(MEASUREMENT.hex(),), chip_ids=(chip.chip_id.hex(),)),))
    examine = partial(examine_snp, anchors=amd.anchors)

    def reading() -> float:
        reports = [chip.evidence(number.to_bytes(64, "big")) for number in range(_REPETITIONS)]
        started = time.perf_counter()
        for evidence in reports:
            verify(evidence, policy, at=NOW, examine=examine).require()
        return (time.perf_counter() - started) * 1000 / _REPETITIONS

    return reading


def _signatures(amd: FakeAmd, chip: FakeChip) -> Callable[[], float]:
    """Four signatures over as many bytes as in a report and a certificate, by keys that are loaded already."""
    message = bytes(1024)
    ecdsa, pss = ec.ECDSA(hashes.SHA384()), padding.PSS(padding.MGF1(hashes.SHA384()), salt_length=48)
    signature = chip.key.sign(message, ecdsa)
    by_rsa: list[tuple[rsa.RSAPublicKey, bytes]] = [
        (key.public_key(), key.sign(message, pss, hashes.SHA384())) for key in (amd.ark_key, amd.ask_key)
    ]
    by_chip = chip.key.public_key()

    def reading() -> float:
        started = time.perf_counter()
        for _ in range(_REPETITIONS):
            for _ in range(2):
                by_chip.verify(signature, message, ecdsa)
            for key, signed in by_rsa:
                key.verify(signed, message, pss, hashes.SHA384())
        return (time.perf_counter() - started) * 1000 / _REPETITIONS

    return reading
