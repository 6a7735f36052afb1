"""Tests of `testers.keepctl.files`."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from keep_client import InvalidArgumentError, KeepClient, ProtocolError, new_spec, principal_of
from keep_client.credentials import Home
from keep_protocol.keep_api import FileKind, FileList
from keep_protocol.states import FileArea, KeepRole
from testers.keepctl.fetching import fetch
from testers.keepctl.guest_paths import Location
from testers.keepctl.sending import Entry, entries_of, send
from tests.unit.testers.conftest import Program
from tests.unit.testers.doubles import FakeDeployment, FakeKeep

OUTPUT = Location(FileArea.OUTPUT, "")


@pytest.fixture
def keep(fake: FakeDeployment) -> FakeKeep:
    home = Home(fake.home)
    operator = principal_of(
        home.operator.certificate.read_text(), [KeepRole.OWNER], client_ca=home.client_ca.read_text()
    )
    return fake.add(new_spec(principals=[operator]), "prices")


@pytest.fixture
def client(fake: FakeDeployment, keep: FakeKeep) -> Iterator[KeepClient]:
    credentials = Home(fake.home).operator
    with KeepClient.from_certificate(keep.server.endpoint, keep.pair.certificate, credentials=credentials) as client:
        yield client


def _names(entries: list[Entry]) -> list[str]:
    return [f"{entry.name}/" if entry.is_folder else entry.name for entry in entries]


def test_a_folder_is_sent_with_its_empty_folders_and_inner_links(
    client: KeepClient, keep: FakeKeep, tmp_path: Path
) -> None:
    folder = tmp_path / "work"
    (folder / "a" / "empty").mkdir(parents=True)
    (folder / "a" / "file").write_text("content")
    (folder / "link").symlink_to("a/file")
    entries = entries_of(folder)
    assert _names(entries) == ["/", "a/", "a/empty/", "a/file", "link"]
    send(client, entries, Location(FileArea.DATA, "work"))
    assert keep.files == {("data", "work/a/file"): b"content", ("data", "work/link"): b"content"}
    assert keep.folders == {("data", "work"), ("data", "work/a"), ("data", "work/a/empty")}


def test_a_link_out_of_the_folder_is_named_and_nothing_is_sent(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (folder := tmp_path / "work").mkdir()
    (folder / "leak").symlink_to("../secret")
    with pytest.raises(InvalidArgumentError, match=r"work/leak is a link that leads out"):
        entries_of(folder)


def test_a_link_round_in_circles_is_named(tmp_path: Path) -> None:
    (folder := tmp_path / "work").mkdir()
    (folder / "again").symlink_to(".")
    with pytest.raises(InvalidArgumentError, match="again is a link to a folder that contains it"):
        entries_of(folder)
    (folder / "again").unlink()
    (folder / "again").symlink_to("again")
    with pytest.raises(InvalidArgumentError, match="again is a link that leads nowhere"):
        entries_of(folder)


def test_what_is_neither_file_nor_folder_is_named(tmp_path: Path) -> None:
    (folder := tmp_path / "work").mkdir()
    os.mkfifo(folder / "fifo")
    with pytest.raises(InvalidArgumentError, match="fifo is neither"):
        entries_of(folder)
    with socket.socket(socket.AF_UNIX) as unix:
        # A short relative path: addresses of sockets have 107 bytes.
        before = Path.cwd()
        os.chdir(tmp_path)
        try:
            unix.bind("socket")
        finally:
            os.chdir(before)
    with pytest.raises(InvalidArgumentError, match="socket is neither"):
        entries_of(tmp_path / "socket")


def test_a_name_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (folder := tmp_path / "work").mkdir()
    Path(os.fsdecode(bytes(folder) + b"/\xff")).write_text("")
    with pytest.raises(InvalidArgumentError, match="names must be UTF-8"):
        entries_of(folder)


def test_files_and_folders_are_fetched(client: KeepClient, keep: FakeKeep, tmp_path: Path) -> None:
    keep.files["output", "a/b"] = b"content"
    keep.folders.add(("output", "empty"))
    fetch(client, OUTPUT, tmp_path / "all")
    assert (tmp_path / "all" / "a" / "b").read_bytes() == b"content"
    assert (tmp_path / "all" / "empty").is_dir()
    keep.files["output", "a/b"] = b"newer"
    fetch(client, OUTPUT, tmp_path / "all")
    fetch(client, Location(FileArea.OUTPUT, "a/b"), tmp_path / "one")
    fetch(client, Location(FileArea.OUTPUT, "a/b"), tmp_path)
    assert {(tmp_path / name).read_bytes() for name in ("all/a/b", "one", "b")} == {b"newer"}


@pytest.mark.parametrize("name", ["..", ".", "", "../escaped", "/tmp/escaped", "a/b", "nul\0"])
def test_a_keep_cannot_name_a_file_outside_the_target(
    client: KeepClient, keep: FakeKeep, tmp_path: Path, name: str
) -> None:
    target = tmp_path / "in" / "target"
    target.parent.mkdir()
    keep.listing = FileList(FileArea.OUTPUT, "", (FileKind(name, "file", 1, ""),))
    with pytest.raises(ProtocolError, match="nothing more is fetched"):
        fetch(client, OUTPUT, target)
    assert list(target.iterdir()) == []
    assert list(target.parent.iterdir()) == [target]


def test_existing_links_are_not_followed(client: KeepClient, keep: FakeKeep, tmp_path: Path) -> None:
    (outside := tmp_path / "outside").mkdir()
    (outside / "file").write_text("mine")
    (target := tmp_path / "target").mkdir()
    (target / "file").symlink_to(outside / "file")
    keep.files["output", "file"] = b"theirs"
    fetch(client, OUTPUT, target)
    assert (outside / "file").read_text() == "mine"
    assert (target / "file").read_bytes() == b"theirs"
    (target / "folder").symlink_to(outside)
    keep.files["output", "folder/file"] = b"theirs"
    with pytest.raises(OSError, match="folder"):
        fetch(client, OUTPUT, target)
    assert (outside / "file").read_text() == "mine"


def test_folders_without_end_are_given_up(client: KeepClient, keep: FakeKeep, tmp_path: Path) -> None:
    keep.listing = FileList(FileArea.OUTPUT, "", (FileKind("d", "folder", 0, ""),))
    with pytest.raises(ProtocolError, match="folders in each other"):
        fetch(client, OUTPUT, tmp_path / "target")


def test_a_name_that_is_file_and_folder_at_once_is_an_error(client: KeepClient, keep: FakeKeep, tmp_path: Path) -> None:
    keep.files["output", "x"] = b"file"
    kinds = (FileKind("x", "file", 1, ""), FileKind("x", "folder", 1, ""))
    keep.listing = FileList(FileArea.OUTPUT, "", kinds)
    with pytest.raises(OSError, match="x"):
        fetch(client, OUTPUT, tmp_path / "target")


def test_links_in_a_keep_are_left_out_with_a_word(
    client: KeepClient, keep: FakeKeep, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    keep.listing = FileList(FileArea.OUTPUT, "", (FileKind("l\x1b", "link", 0, ""),))
    fetch(client, OUTPUT, tmp_path / "target")
    assert capfd.readouterr().err == "keepctl: /output/l\\x1b is neither a file nor a folder: left out\n"


def test_a_fetch_that_breaks_leaves_nothing_half(client: KeepClient, keep: FakeKeep, tmp_path: Path) -> None:
    (target := tmp_path / "target").mkdir()
    (target / "x").write_text("old")
    keep.listing = FileList(FileArea.OUTPUT, "", (FileKind("x", "file", 0, ""),))
    # The listing is also what the keep answers for the file itself.
    with pytest.raises(InvalidArgumentError, match="is a folder and no file"):
        fetch(client, OUTPUT, target)
    assert [(path.name, path.read_text()) for path in target.iterdir()] == [("x", "old")]


def test_put_and_get_use_standard_streams(keep: FakeKeep, keepctl: Program, tmp_path: Path) -> None:
    assert keepctl("put", "prices", "-", "/input/a", stdin="hello").returncode == 0
    assert keepctl("get", "prices", "/input/a", "-").stdout == "hello"
    (tmp_path / "b").write_text("b")
    assert (
        keepctl("put", "prices", "b", "/data/sub/", "--json").stdout == '{\n  "area": "data",\n  "path": "sub/b"\n}\n'
    )
    assert keep.files == {("input", "a"): b"hello", ("data", "sub/b"): b"b"}


def test_a_guest_path_outside_of_the_areas_is_refused(keep: FakeKeep, keepctl: Program) -> None:
    done = keepctl("get", "prices", "/etc/passwd", "-")
    assert (done.returncode, "in no folder of the guest" in done.stderr) == (1, True)
