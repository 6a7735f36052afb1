"""Images in their folders: manifests, changed files, comparisons, bills of materials, and the commands for them."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import msgspec
import pytest

from keep_attestation.policy import parse_policy
from keep_image.errors import ImageFileError
from keep_image.manifest import (
    COMMAND_LINE,
    INITRAMFS,
    KERNEL,
    MANIFEST,
    MANIFEST_VERSION,
    Component,
    Content,
    Manifest,
    Origin,
    check_files,
    described,
    encode_manifest,
    load_manifest,
)
from keep_image.sbom import encode_sbom
from keep_manager.cli import main
from tests.unit.keep_image.firmware_of import firmware
from tests.unit.keep_image.test_boot_measurement import kernel


def manifest_of(kernel_content: bytes, initramfs: bytes, *, openssl: str = "3.0.1") -> Manifest:
    return Manifest(
        version=MANIFEST_VERSION,
        wasmkeep="0.1.0",
        python="3.11",
        kernel_release="6.12",
        command_line=COMMAND_LINE,
        kernel=described(KERNEL, kernel_content),
        initramfs=described(INITRAMFS, initramfs),
        unpacked=described("initramfs.cpio", initramfs),
        components=(
            Component("wasmkeep", "0.1.0", Origin.WASMKEEP, "1" * 64),
            Component("libssl3", openssl, Origin.DEBIAN, "2" * 64),
            Component("h11", "0.16.0", Origin.PYPI, "3" * 64),
        ),
        contents=(Content("init", 0o100755, len(initramfs), described("", initramfs).sha256),),
    )


def write_image(folder: Path, *, initramfs: bytes = b"initramfs", openssl: str = "3.0.1") -> Path:
    """An image whose kernel is no more than headers."""
    folder.mkdir()
    manifest = manifest_of(kernel(), initramfs, openssl=openssl)
    (folder / KERNEL).write_bytes(kernel())
    (folder / INITRAMFS).write_bytes(initramfs)
    (folder / MANIFEST).write_bytes(encode_manifest(manifest))
    return folder


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write_image(tmp_path / "image")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Status, standard output and standard error of `keep-manager`."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    output = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, output.out, output.err


def test_a_changed_file_of_an_image_is_named(image: Path) -> None:
    manifest = load_manifest(image)
    check_files(image, manifest)
    (image / INITRAMFS).write_bytes(b"initramfX")
    with pytest.raises(ImageFileError, match=r"initramfs\.cpio\.lz4 has the SHA-256 .* it was changed; build it anew"):
        check_files(image, manifest)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not usable"),
        (b"{}", "missing required field"),
        (encode_manifest(msgspec.structs.replace(manifest_of(b"", b""), version=2)), "version 2, not 1"),
        (encode_manifest(msgspec.structs.replace(manifest_of(b"", b""), kernel=described("../x", b""))), "names other"),
    ],
)
def test_a_manifest_that_is_not_usable_says_why(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(ImageFileError, match=message):
        load_manifest(tmp_path)


def test_a_folder_without_an_image_says_how_to_make_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, errors = run(capsys, "image", "show", str(tmp_path))
    assert status == 1
    assert "there is no image in" in errors
    assert "`keep-manager image build`" in errors


def test_show_prints_digests_and_packages(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = load_manifest(image)
    status, output, _ = run(capsys, "image", "show", str(image), "--contents")
    assert status == 0
    for expected in (manifest.kernel.sha256, manifest.initramfs.sha256, "libssl3 3.0.1", "/init", COMMAND_LINE):
        assert expected in output
    status, output, _ = run(capsys, "image", "show", str(image), "--json")
    assert msgspec.json.decode(output, type=Manifest) == manifest


def test_diff_explains_from_the_package_to_the_measurement(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_image(tmp_path / "other", initramfs=b"another", openssl="3.0.2")
    status, output, _ = run(capsys, "image", "diff", str(image), str(other))
    assert status == 1
    assert "package libssl3\n  - 3.0.1" in output
    assert "\n/init\n" in output
    assert "evidence changes by the initramfs: PCR 9" in output
    status, output, _ = run(capsys, "image", "diff", str(image), str(other), "--json")
    assert [each["what"] for each in json.loads(output)["differences"]] == ["package libssl3", "/init", "initramfs"]
    status, output, _ = run(capsys, "image", "diff", str(image), str(image))
    assert (status, output) == (0, "evidence says the same of both\n")


@pytest.mark.parametrize(
    ("backend", "more"),
    [
        ("qemu+vtpm", []),
        ("qemu+vtpm", ["--qemu-version", "10.0.2"]),
        ("snp", ["--firmware", "FIRMWARE", "--vcpus", "2"]),
        ("tdx", ["--firmware", "FIRMWARE"]),
        ("nitro", []),
    ],
)
def test_what_measure_prints_is_a_policy(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], backend: str, more: list[str]
) -> None:
    (tmp_path / "ovmf").write_bytes(firmware())
    more = [str(tmp_path / "ovmf") if each == "FIRMWARE" else each for each in more]
    spec = ["--spec-digest", "ab" * 32]
    arguments = ("image", "measure", str(image), "--backend", backend, "--memory", "512M", *more, *spec)
    status, output, _ = run(capsys, *arguments)
    assert status == 0
    policy = parse_policy(output)
    assert [kind.value for kind in policy.kinds] == [backend.removeprefix("qemu+v")]
    status, output_json, _ = run(capsys, *arguments, "--json")
    document = tomllib.loads(output)
    del document["name"]
    assert json.loads(output_json) == document


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backend", "snp", "--memory", "512M"], "--firmware is needed for snp"),
        (["--backend", "snp", "--memory", "512M", "--firmware", "/absent"], "/absent cannot be read"),
        (["--backend", "qemu+vtpm", "--memory", "lots"], "'lots' is no size"),
        (["--backend", "qemu+vtpm", "--memory", "0"], "'0' is no size"),
        (["--backend", "qemu+vtpm", "--memory", "1"], "do not hold an initramfs"),
        (["--backend", "qemu+vtpm", "--memory", "1G", "--qemu-version", "new"], "'new' is no version"),
        (["--backend", "qemu+vtpm", "--memory", "1G", "--spec-digest", "AB"], "'AB' is no SHA-256"),
    ],
)
def test_what_cannot_be_predicted_says_why(
    image: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    status, _, errors = run(capsys, "image", "measure", str(image), *arguments)
    assert status == 1
    assert message in errors


def test_nothing_is_predicted_from_files_that_were_changed(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (image / KERNEL).write_bytes(kernel(checksum=1))
    status, _, errors = run(capsys, "image", "measure", str(image), "--backend", "qemu+vtpm", "--memory", "1G")
    assert status == 1
    assert "it was changed" in errors


def test_the_bill_of_materials_names_every_package_and_no_time() -> None:
    manifest = manifest_of(kernel(), b"initramfs")
    document = json.loads(encode_sbom(manifest))
    assert document["spdxVersion"] == "SPDX-2.3"
    names = [package["name"] for package in document["packages"]]
    assert names == ["wasmkeep-guest-image", "wasmkeep", "libssl3", "h11"]
    references = [
        each["referenceLocator"] for package in document["packages"] for each in package.get("externalRefs", [])
    ]
    assert references == ["pkg:deb/debian/libssl3@3.0.1?arch=amd64", "pkg:pypi/h11@0.16.0"]
    assert document["creationInfo"]["created"] == "1970-01-01T00:00:00Z"
    contained = [each["relatedSpdxElement"] for each in document["relationships"]]
    assert contained == [package["SPDXID"] for package in document["packages"]]


def test_a_kernel_of_ones_own_must_be_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from keep_image.build import _read_kernel
    from keep_image.errors import BuildError

    (tmp_path / "text").write_bytes(b"text" * 200)
    for path, message in ((tmp_path / "text", "no kernel for x86"), (tmp_path / "absent", "cannot be read")):
        with pytest.raises(BuildError, match=message):
            _read_kernel(path)


def test_diff_explains_two_measurements_by_what_each_value_stands_for(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, line in (("usual", "quiet"), ("other", "quiet init=/evil")):
        arguments = ("--backend", "qemu+vtpm", "--memory", "512M", "--cmdline", line)
        (tmp_path / name).write_text(run(capsys, "image", "measure", str(image), *arguments)[1])
    status, output, _ = run(capsys, "image", "diff", str(tmp_path / "usual"), str(tmp_path / "other"))
    assert status == 1
    assert output.startswith("tpm.pcrs.sha256.9 (the kernel's command line or the initramfs)\n  - ")
    assert "sha256.4" not in output
    assert run(capsys, "image", "diff", str(tmp_path / "usual"), str(tmp_path / "usual"))[0] == 0
    (tmp_path / "other").write_text("no TOML")
    status, _, errors = run(capsys, "image", "diff", str(tmp_path / "usual"), str(tmp_path / "other"))
    assert status == 1
    assert "cannot be read" in errors
