"""Pinned packages: read without their tools, checked by SHA-256, kept, and refused by name."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from keep_image.archives import read_package, read_wheel
from keep_image.errors import PackageError
from keep_image.package_store import PackageStore
from keep_image.pins import DebianPackage, PackageUse, Wheel, load_pins


def debian_package(files: dict[str, bytes], links: dict[str, str] | None = None, *, name: str = "data.tar.xz") -> bytes:
    """A package as dpkg-deb builds them."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as archive:
        for path, content in files.items():
            entry = tarfile.TarInfo(f"./{path}")
            entry.size = len(content)
            entry.mode = 0o755 if path.startswith("usr/bin/") else 0o644
            archive.addfile(entry, io.BytesIO(content))
        for path, target in (links or {}).items():
            entry = tarfile.TarInfo(f"./{path}")
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    members = [("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), (name, data.getvalue())]
    package = b"!<arch>\n"
    for member, content in members:
        package += f"{member:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        package += content + b"\n" * (len(content) % 2)
    return package


def pin(content: bytes, name: str = "thing") -> DebianPackage:
    digest = hashlib.sha256(content).hexdigest()
    return DebianPackage(name, "1.0", PackageUse.GUEST, f"pool/main/t/{name}_1.0_amd64.deb", len(content), digest)


def test_a_debian_package_is_read_without_dpkg(tmp_path: Path) -> None:
    path = tmp_path / "thing.deb"
    path.write_bytes(debian_package({"usr/bin/thing": b"program", "etc/thing": b"text"}, {"usr/lib/x.so": "x.so.1"}))
    members = read_package(path)
    assert members["usr/bin/thing"].content == b"program"
    assert members["usr/bin/thing"].is_executable
    assert not members["etc/thing"].is_executable
    assert members["usr/lib/x.so"].is_link
    assert members["usr/lib/x.so"].content == b"x.so.1"
    assert list(read_package(path, lambda name: name.startswith("etc/"))) == ["etc/thing"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no Debian package"),
        (b"!<arch>\n", "no data.tar"),
        (b"!<arch>\n" + b"x" * 60, "no data.tar"),
        (debian_package({}, name="data.tar.zst"), "cannot read"),
        (debian_package({"a": b"b"}).replace(b"\xfd7zXZ", b"\xfd7zXX"), "cannot be read"),
        (debian_package({"a": b"b"})[:-40], "ends within data.tar.xz"),
    ],
)
def test_what_is_no_package_is_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "thing.deb"
    path.write_bytes(content)
    with pytest.raises(PackageError, match=message) as refused:
        read_package(path)
    assert "thing.deb" in str(refused.value)


def test_a_wheel_is_read(tmp_path: Path) -> None:
    path = tmp_path / "thing.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("thing/__init__.py", "x = 1")
    assert read_wheel(path)["thing/__init__.py"].content == b"x = 1"
    path.write_bytes(b"no zip")
    with pytest.raises(PackageError, match=r"thing\.whl cannot be read"):
        read_wheel(path)


def test_a_package_in_the_given_folder_is_taken_checked_and_kept(tmp_path: Path) -> None:
    content = debian_package({"a": b"b"})
    wanted = pin(content)
    given = tmp_path / "given"
    given.mkdir()
    (given / wanted.file_name).write_bytes(content)
    kept = PackageStore(tmp_path / "cache", folder=given).package(wanted)
    assert kept.read_bytes() == content
    (given / wanted.file_name).unlink()
    assert PackageStore(tmp_path / "cache").package(wanted) == kept


def test_a_package_that_is_not_the_pinned_one_is_refused_and_not_kept(tmp_path: Path) -> None:
    content = debian_package({"a": b"b"})
    wanted = pin(content)
    (tmp_path / wanted.file_name).write_bytes(content + b"X")
    with pytest.raises(PackageError, match=f"thing: .* pinned is {wanted.sha256}"):
        PackageStore(tmp_path / "cache", folder=tmp_path).package(wanted)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_kept_package_that_was_changed_is_not_used(tmp_path: Path) -> None:
    content = debian_package({"a": b"b"})
    wanted = pin(content)
    (tmp_path / wanted.file_name).write_bytes(content)
    store = PackageStore(tmp_path / "cache", folder=tmp_path)
    store.package(wanted).write_bytes(b"changed")
    assert store.package(wanted).read_bytes() == content


def test_a_machine_without_apt_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keep_image.package_store._APT_HELPER", str(tmp_path / "absent"))
    with pytest.raises(PackageError, match=r"no apt .*--packages"):
        PackageStore(tmp_path / "cache").package(pin(b"x"))


def test_a_wheel_that_the_index_does_not_have_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    wanted = Wheel("wasmkeep-test-absent", "1", "wasmkeep_test_absent-1-py3-none-any.whl", "0" * 64)
    with pytest.raises(PackageError, match=r"pip has no wasmkeep_test_absent-1-py3-none-any\.whl.*--packages"):
        PackageStore(tmp_path / "cache").wheel(wanted, load_pins())
