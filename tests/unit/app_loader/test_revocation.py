"""Reading the host's revocation lists, whatever the host puts there."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from app_loader.errors import RevocationError
from app_loader.revocation import MAX_SIZE, Revocations, read_lists
from tests.unit.app_loader.pki import Authority


def test_all_lists_of_a_file_are_read(tmp_path: Path) -> None:
    path = tmp_path / "crl.pem"
    path.write_bytes(b"made today\n" + Authority("one").revocations() + Authority("two").revocations())
    assert len(read_lists(path)) == 2


def test_a_file_that_changes_is_read_again_and_only_then(tmp_path: Path) -> None:
    authority = Authority()
    path = tmp_path / "crl.pem"
    path.write_bytes(authority.revocations())
    revocations = Revocations(path)
    first = revocations.refresh()
    lists = revocations.lists
    assert revocations.refresh() == first
    assert revocations.lists is lists
    replacement = tmp_path / "new.pem"
    replacement.write_bytes(authority.revocations())
    replacement.rename(path)
    assert revocations.refresh() > first
    assert revocations.lists is not lists


def test_a_file_that_goes_away_leaves_no_list(tmp_path: Path) -> None:
    path = tmp_path / "crl.pem"
    path.write_bytes(Authority().revocations())
    revocations = Revocations(path)
    revocations.refresh()
    path.unlink()
    revocations.refresh()
    assert revocations.lists == ()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no list",
        b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n",
        b"-----BEGIN X509 CRL-----\n!\n-----END X509 CRL-----\n",
    ],
    ids=["empty", "text", "no-der", "no-base64"],
)
def test_a_malformed_file_leaves_no_list_and_a_line_in_the_log(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "crl.pem"
    path.write_bytes(Authority().revocations())
    revocations = Revocations(path)
    revocations.refresh()
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        revocations.refresh()
    assert revocations.lists == ()
    assert "revocation lists are unusable" in caplog.text


def test_bytes_behind_a_list_make_it_malformed(tmp_path: Path) -> None:
    pem = Authority().revocations().splitlines()
    path = tmp_path / "crl.pem"
    path.write_bytes(b"\n".join([*pem[:-1], b"AAAA", pem[-1]]))
    with pytest.raises(RevocationError):
        read_lists(path)


def test_links_fifos_and_giants_are_not_read(tmp_path: Path) -> None:
    good = tmp_path / "good.pem"
    good.write_bytes(Authority().revocations())
    link = tmp_path / "link.pem"
    link.symlink_to(good)
    fifo = tmp_path / "fifo.pem"
    os.mkfifo(fifo)
    giant = tmp_path / "giant.pem"
    giant.touch()
    os.truncate(giant, MAX_SIZE + 1)
    for path in (link, fifo, giant, tmp_path, tmp_path / "missing"):
        with pytest.raises(RevocationError):
            read_lists(path)
