"""Fetching over HTTPS: hosts, sizes, deadlines and certificates."""

from __future__ import annotations

import ssl

import pytest

from keep_attestation.endorsement_sources.https_fetch import MANUFACTURER_HOSTS, HttpsFetch
from keep_attestation.endorsement_sources.interface import EndorsementNotFoundError
from keep_attestation.errors import EndorsementsError
from tests.unit.keep_attestation.endorsement_sources.manufacturer import Answer, Manufacturer


def test_an_answer_has_body_and_headers_in_lower_case(manufacturer: Manufacturer) -> None:
    manufacturer.answers["/a?b=c"] = Answer(b"body", headers={"TCB-Info-Issuer-Chain": "chain"})
    fetched = manufacturer.fetch()(f"{manufacturer.base}/a?b=c")
    assert fetched.body == b"body"
    assert fetched.headers["tcb-info-issuer-chain"] == "chain"


def test_absent_things_are_told_from_failures(manufacturer: Manufacturer) -> None:
    manufacturer.answers["/busy"] = Answer(status=429, headers={"Retry-After": "17"})
    fetch = manufacturer.fetch()
    with pytest.raises(EndorsementNotFoundError, match="nothing at /absent"):
        fetch(f"{manufacturer.base}/absent")
    with pytest.raises(EndorsementsError, match="429 to /busy; try again in 17 s"):
        fetch(f"{manufacturer.base}/busy")


def test_redirects_are_not_followed(manufacturer: Manufacturer) -> None:
    manufacturer.answers["/moved"] = Answer(status=302, headers={"Location": f"{manufacturer.base}/there"})
    manufacturer.answers["/there"] = Answer(b"body")
    with pytest.raises(EndorsementsError, match="302"):
        manufacturer.fetch()(f"{manufacturer.base}/moved")
    assert manufacturer.asked == ["/moved"]


def test_an_answer_larger_than_the_limit_is_refused(manufacturer: Manufacturer) -> None:
    manufacturer.answers["/large"] = Answer(bytes(2000))
    fetch = HttpsFetch(hosts={manufacturer.host}, context=manufacturer.context, max_size=1999)
    with pytest.raises(EndorsementsError, match="more than 1999 bytes"):
        fetch(f"{manufacturer.base}/large")


def test_an_answer_that_drips_is_given_up(manufacturer: Manufacturer) -> None:
    manufacturer.answers["/slow"] = Answer(bytes(20), pause=0.1)
    fetch = HttpsFetch(hosts={manufacturer.host}, context=manufacturer.context, timeout=0.3)
    with pytest.raises(EndorsementsError, match=r"did not finish its answer in 0\.3 s"):
        fetch(f"{manufacturer.base}/slow")


def test_a_server_that_nobody_vouches_for_is_refused(manufacturer: Manufacturer) -> None:
    for context in (None, ssl.create_default_context()):
        with pytest.raises(EndorsementsError, match="cannot be asked"):
            HttpsFetch(hosts={manufacturer.host}, context=context)(f"{manufacturer.base}/")
    assert manufacturer.asked == []


@pytest.mark.parametrize(
    "url",
    [
        "http://kdsintf.amd.com/vcek/v1/Milan/crl",
        "https://kdsintf.amd.com.example.org/vcek/v1/Milan/crl",
        "https://kdsintf.amd.com@example.org/",
        "https://kdsintf.amd.com:444/",
        "https://localhost/",
        "file:///etc/passwd",
        "",
    ],
)
def test_other_hosts_and_schemes_are_not_asked(url: str) -> None:
    with pytest.raises(EndorsementsError, match="is not asked"):
        HttpsFetch(hosts=MANUFACTURER_HOSTS)(url)
