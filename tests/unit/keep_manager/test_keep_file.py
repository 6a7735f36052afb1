"""`keep.json` is written by the keep: whatever it holds, the manager neither hangs nor believes it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from keep_manager.errors import KeepFileError
from keep_manager.keep_file import read_keep_file
from keep_protocol.handover import MAX_KEEP_FILE, Configuration
from tests.unit.keep_manager.fake_supervisor import keep_certificate

INVOCATION = "a" * 32


def certificate() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    made = keep_certificate(key, Configuration("a", "b", "", "d", ()))
    return made.public_bytes(serialization.Encoding.PEM).decode()


def document(**changes: object) -> bytes:
    facts = [{"name": "no-network", "holds": True}]
    return msgspec.json.encode(
        {"version": 1, "certificate": certificate(), "invocation": INVOCATION, "sandbox": facts} | changes
    )


def test_a_sound_file_gives_certificate_and_facts(folder: Path) -> None:
    (folder / "keep.json").write_bytes(document())
    facts = read_keep_file(folder, INVOCATION)
    assert len(facts.spki_sha256) == 64
    assert [(fact.name, fact.holds) for fact in facts.sandbox] == [("no-network", True)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "malformed"),
        (b"[]", "malformed"),
        (b"\xff", "malformed"),
        (b'{"version": 1, "certificate": "\xff"}', "malformed"),
        (document(endpoint="127.0.0.1:22"), "unknown field `endpoint`"),
        (document(backend="snp"), "unknown field `backend`"),
        (document(version=2), "version 2"),
        (document(invocation="b" * 32), "invocation"),
        (document(certificate="hello"), "certificate"),
        (document(certificate=7), "malformed"),
        (document(sandbox=[{"name": "x"}]), "malformed"),
        (b"[" * 60_000, "malformed"),
        (document(sandbox=[{"name": "x" * MAX_KEEP_FILE, "holds": True}]), "more than"),
    ],
)
def test_a_malformed_or_lying_file_is_refused(folder: Path, content: bytes, message: str) -> None:
    (folder / "keep.json").write_bytes(content)
    with pytest.raises(KeepFileError, match=message):
        read_keep_file(folder, INVOCATION)


def test_a_missing_file_is_refused(folder: Path) -> None:
    with pytest.raises(KeepFileError, match="cannot be opened"):
        read_keep_file(folder, INVOCATION)


def test_a_link_is_not_followed(folder: Path) -> None:
    (folder / "elsewhere").write_bytes(document())
    (folder / "keep.json").symlink_to(folder / "elsewhere")
    with pytest.raises(KeepFileError, match="without following links"):
        read_keep_file(folder, INVOCATION)


def test_a_link_in_place_of_the_folder_is_not_followed(folder: Path) -> None:
    (folder / "real").mkdir()
    (folder / "real" / "keep.json").write_bytes(document())
    (folder / "keep").symlink_to(folder / "real")
    with pytest.raises(KeepFileError, match="not a folder"):
        read_keep_file(folder / "keep", INVOCATION)


def test_a_second_name_of_a_file_is_refused(folder: Path) -> None:
    (folder / "elsewhere").write_bytes(document())
    (folder / "keep.json").hardlink_to(folder / "elsewhere")
    with pytest.raises(KeepFileError, match="with one name"):
        read_keep_file(folder, INVOCATION)


def test_a_pipe_nobody_writes_to_does_not_hang_the_manager(folder: Path) -> None:
    os.mkfifo(folder / "keep.json")
    # In a child: a test that hangs would hang all of them.
    program = "import sys, pathlib, keep_manager.keep_file as k; k.read_keep_file(pathlib.Path(sys.argv[1]), 'x')"
    command = [sys.executable, "-c", program, str(folder)]
    child = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert "KeepFileError" in child.stderr
    assert "not a regular file" in child.stderr


def test_a_folder_and_a_device_are_refused(folder: Path) -> None:
    (folder / "keep.json").mkdir()
    with pytest.raises(KeepFileError, match="not a regular file"):
        read_keep_file(folder, INVOCATION)


def test_a_gigabyte_is_refused_by_its_size(folder: Path) -> None:
    with (folder / "keep.json").open("wb") as file:
        file.truncate(1024**3)
    with pytest.raises(KeepFileError, match="1073741824 bytes"):
        read_keep_file(folder, INVOCATION)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_another_user_than_its_folder_is_refused(folder: Path) -> None:
    (folder / "keep.json").write_bytes(document())
    os.chown(folder / "keep.json", 12345, 12345)
    with pytest.raises(KeepFileError, match="belongs to user 12345"):
        read_keep_file(folder, INVOCATION)
