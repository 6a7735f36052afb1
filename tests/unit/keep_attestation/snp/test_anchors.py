"""AMD's pinned hierarchies."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from keep_attestation.certificates import chain_problem, read_certificate
from keep_attestation.errors import EndorsementsError
from keep_attestation.snp.anchors import PRODUCTION_ANCHORS, packaged_certificate
from keep_attestation.snp.products import Product
from tests.unit.keep_attestation.snp.forge import NOW


def test_every_product_has_its_own_hierarchy() -> None:
    assert [hierarchy.product for hierarchy in PRODUCTION_ANCHORS] == list(Product)
    for hierarchy in PRODUCTION_ANCHORS:
        product = hierarchy.product
        names = [certificate.subject_name for certificate in hierarchy.certificates]
        assert names == [f"ARK-{product}", f"SEV-{product}", f"SEV-VLEK-{product}"]
        for intermediate in (hierarchy.ask, hierarchy.asvk):
            assert chain_problem((intermediate, hierarchy.ark, hierarchy.ark), NOW) is None
    for one, other in pairwise(PRODUCTION_ANCHORS):
        assert chain_problem((one.ask, other.ark), NOW) is not None


def test_a_certificate_that_is_not_the_pinned_one_stops_the_package() -> None:
    with pytest.raises(EndorsementsError, match="69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd"):
        packaged_certificate("ark-milan", "00" * 32)


def test_the_pinned_certificates_are_those_that_amd_publishes(vectors: Path) -> None:
    published = {read_certificate(path.read_bytes()).sha256 for path in (vectors / "roots").glob("amd-*.der")}
    assert {certificate.sha256 for each in PRODUCTION_ANCHORS for certificate in each.certificates} == published
