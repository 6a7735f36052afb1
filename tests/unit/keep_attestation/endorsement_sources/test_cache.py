"""The cache of fetched endorsements: what it keeps, for how long, and that it never serves what is stale."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from keep_attestation.endorsement_sources.cache import CachingFetch, end_of_use
from keep_attestation.endorsement_sources.interface import EndorsementNotFoundError, Fetched
from keep_attestation.errors import EndorsementsError
from tests.unit.keep_attestation.snp.forge import NOT_AFTER, NOW, fake_amd

AMD = fake_amd()
CERTIFICATE = AMD.vcek().certificate
URL = "https://kdsintf.amd.com/vcek/v1/Milan/crl"


class Service:
    """A `Fetch` and a clock under the test's control."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.now = NOW
        self.asked = 0
        self.failure: EndorsementsError | None = None

    def __call__(self, url: str) -> Fetched:
        self.asked += 1
        if self.failure is not None:
            raise self.failure
        return Fetched(self.body, {"issuer-chain": "chain"})

    def cached(self, folder: Path) -> CachingFetch:
        return CachingFetch(self, folder, max_age=timedelta(days=1), clock=lambda: self.now)


def test_an_answer_is_asked_for_once_by_all_that_share_a_folder(tmp_path: Path) -> None:
    service = Service(AMD.crl())
    first = service.cached(tmp_path)(URL)
    assert service.cached(tmp_path)(URL) == first == Fetched(service.body, {"issuer-chain": "chain"})
    assert service.asked == 1
    service.cached(tmp_path)(URL + "?other")
    assert service.asked == 2


def test_certificates_are_kept_until_they_expire(tmp_path: Path) -> None:
    service = Service(CERTIFICATE)
    fetch = service.cached(tmp_path)
    fetch(URL)
    service.now = NOT_AFTER - timedelta(seconds=1)
    fetch(URL)
    assert service.asked == 1
    service.now = NOT_AFTER + timedelta(seconds=1)
    fetch(URL)
    assert service.asked == 2


def test_crls_are_asked_for_again_when_they_are_of_age(tmp_path: Path) -> None:
    service = Service(AMD.crl())
    fetch = service.cached(tmp_path)
    fetch(URL)
    service.now = NOW + timedelta(hours=23)
    fetch(URL)
    assert service.asked == 1
    service.now = NOW + timedelta(days=1)
    service.body = AMD.crl(0x10001)
    assert fetch(URL).body == service.body
    assert service.asked == 2


def test_an_aged_crl_serves_while_the_service_is_down_but_never_past_its_next_update(tmp_path: Path) -> None:
    service = Service(AMD.crl(next_update=NOW + timedelta(days=3)))
    fetch = service.cached(tmp_path)
    fetch(URL)
    service.failure = EndorsementsError("down")
    service.now = NOW + timedelta(days=2)
    assert fetch(URL).body == service.body
    service.now = NOW + timedelta(days=3)
    with pytest.raises(EndorsementsError, match="down"):
        fetch(URL)


def test_what_the_service_no_longer_has_is_not_served_from_the_cache(tmp_path: Path) -> None:
    service = Service(AMD.crl())
    fetch = service.cached(tmp_path)
    fetch(URL)
    service.now = NOW + timedelta(days=2)
    service.failure = EndorsementNotFoundError("gone")
    with pytest.raises(EndorsementNotFoundError):
        fetch(URL)


def test_stale_answers_are_not_stored(tmp_path: Path) -> None:
    service = Service(AMD.crl(this_update=NOW - timedelta(days=2), next_update=NOW - timedelta(days=1)))
    fetch = service.cached(tmp_path)
    fetch(URL)
    fetch(URL)
    assert service.asked == 2
    assert list(tmp_path.iterdir()) == []


def test_a_clock_that_was_set_back_makes_entries_worthless(tmp_path: Path) -> None:
    service = Service(AMD.crl())
    fetch = service.cached(tmp_path)
    fetch(URL)
    service.now = NOW - timedelta(seconds=1)
    fetch(URL)
    assert service.asked == 2


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[" * 50_000, b'{"url": 1}'])
def test_entries_that_cannot_be_read_count_as_absent(tmp_path: Path, content: bytes) -> None:
    service = Service(AMD.crl())
    fetch = service.cached(tmp_path)
    fetch(URL)
    (entry,) = tmp_path.iterdir()
    entry.write_bytes(content)
    assert fetch(URL).body == service.body
    assert service.asked == 2


def test_an_entry_under_the_name_of_another_address_counts_as_absent(tmp_path: Path) -> None:
    service = Service(AMD.crl())
    fetch = service.cached(tmp_path)
    fetch(URL)
    (first,) = tmp_path.iterdir()
    fetch(URL + "?other")
    (other,) = (path for path in tmp_path.iterdir() if path != first)
    os.replace(first, other)
    fetch(URL + "?other")
    assert service.asked == 3


def test_entries_are_written_whole_and_for_their_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "cache"
    service = Service(AMD.crl())
    service.cached(folder)(URL)
    assert [path.suffix for path in folder.iterdir()] == [".json"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.write_bytes(b"")
    with pytest.raises(EndorsementsError, match="file cannot be written"):
        Service(AMD.crl()).cached(occupied)(URL)


def test_the_end_of_use_is_what_the_issuer_says() -> None:
    at = datetime(2026, 7, 1, tzinfo=UTC)
    assert end_of_use(CERTIFICATE) == NOT_AFTER
    assert end_of_use(AMD.crl(next_update=at)) == at
    assert end_of_use(AMD.crl(next_update=None)) is None
    assert end_of_use(b'{"tcbInfo": {"nextUpdate": "2026-07-01T00:00:00Z"}, "signature": ""}') == at
    assert end_of_use(b'{"enclaveIdentity": {"nextUpdate": "2026-07-01T00:00:00Z"}}') == at
    for nonsense in (b"", b"text", b"{}", b'{"tcbInfo": {}}', b'{"tcbInfo": {"nextUpdate": "2026-07-01T00:00:00"}}'):
        assert end_of_use(nonsense) is None
