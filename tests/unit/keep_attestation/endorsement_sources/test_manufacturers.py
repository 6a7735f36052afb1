"""Both manufacturers' services behind one cache."""

from __future__ import annotations

from pathlib import Path

import msgspec

from keep_attestation.endorsement_sources.interface import Fetched
from keep_attestation.endorsement_sources.manufacturers import manufacturer_sources
from keep_attestation.errors import EndorsementsError
from keep_attestation.evidence import Endorsements, Evidence
from keep_attestation.policy import Policy
from keep_attestation.snp.policy import SnpPolicy
from keep_attestation.verification import verify
from keep_protocol.evidence import EvidenceKind
from tests.unit.keep_attestation.snp.forge import NOW, fake_amd


def test_what_one_service_has_said_is_not_asked_for_again(tmp_path: Path) -> None:
    chip = fake_amd().vcek()
    with_vcek = chip.evidence(bytes(64))
    (vcek, *_) = with_vcek.endorsements.certificates
    asked: list[str] = []

    def fetch(url: str) -> Fetched:
        asked.append(url)
        if "/crl" in url:
            raise EndorsementsError("the service is being maintained")
        return Fetched(vcek, {})

    bare = msgspec.structs.replace(with_vcek, endorsements=Endorsements())
    for _ in range(2):
        amd, intel = manufacturer_sources(tmp_path, fetch=fetch)
        assert intel.endorsements_for(bare) == Endorsements()
        try:
            found = amd.endorsements_for(bare)
        except EndorsementsError:
            found = Endorsements()
        assert found.certificates in ((), (vcek,))
    assert sum("/vcek/v1/" in url and "/crl" not in url for url in asked) == 1
    assert all(url.startswith("https://kdsintf.amd.com/vcek/v1/") for url in asked)


def test_a_service_that_fails_is_noted_and_what_is_missing_refuses(tmp_path: Path) -> None:
    def fetch(url: str) -> Fetched:
        raise EndorsementsError("no network")

    evidence = Evidence(kind=EvidenceKind.SNP, body=fake_amd().vcek().report())
    policy = Policy(snp=(SnpPolicy(measurements=("ab" * 48,)),))
    verdict = verify(evidence, policy, at=NOW, sources=manufacturer_sources(tmp_path, fetch=fetch))
    assert not verdict.accepted
    assert [check.reason for check in verdict.checks if check.name == "endorsements"] == ["no network"]
