"""The image's lock file: strict, and in step with the other lock file."""

from __future__ import annotations

import pytest

from keep_image.errors import PinError
from keep_image.pins import PINS, PackageUse, load_pins, parse_pins
from tests.unit.test_repository import ROOT

KERNEL = """
[[packages]]
name = "linux"
version = "1"
use = "kernel"
path = "pool/main/l/linux.deb"
size = 1
sha256 = "{digest}"
"""
SOURCE = KERNEL.replace('"linux"', '"source"').replace('"kernel"', '"source"').format(digest="2" * 64)
PLAIN = 'python = "3.11"\nkernel_release = "1"\nwheels = []\n' + KERNEL.format(digest="0" * 64) + SOURCE


def test_wheels_are_of_the_versions_and_files_that_keeps_run_with() -> None:
    locked = (ROOT / "requirements.lock").read_text()
    for wheel in load_pins().wheels:
        assert f"\n{wheel.name}=={wheel.version} \\" in locked
        assert f"--hash=sha256:{wheel.sha256}" in locked


def test_the_kernels_release_is_the_one_of_its_package() -> None:
    pins = load_pins()
    assert pins.kernel.name == f"linux-image-{pins.kernel_release}"


def test_our_own_kernel_is_of_the_same_source_as_debians() -> None:
    pins = load_pins()
    assert pins.kernel_source.version == pins.kernel.version
    assert pins.kernel_release.startswith(pins.kernel_source.name.removeprefix("linux-source-") + ".")


def test_the_lock_file_names_no_place_to_fetch_from() -> None:
    assert "://" not in PINS.read_text()


def test_what_has_a_compiler_a_shell_or_cryptography_in_it_is_not_for_the_guest() -> None:
    pins = load_pins()
    names = {package.name for package in pins.packages if package.use is PackageUse.GUEST}
    names |= {wheel.name for wheel in pins.wheels}
    assert not names & {"bash", "dash", "busybox", "coreutils", "systemd", "cryptography", "cffi"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "missing required field `python`"),
        ("python =", "not TOML"),
        (PLAIN + "signed = true\n", "unknown field `signed`"),
        (PLAIN.replace("0" * 64, "0" * 63), "sha256"),
        (PLAIN.replace("pool/main/l/linux.deb", "../linux.deb"), "path"),
        (PLAIN.replace('"kernel"', '"guest"'), "exactly one package has the use `kernel`"),
        (PLAIN.replace('use = "source"', 'use = "build"'), "exactly one package has the use `source`"),
        (PLAIN + KERNEL.format(digest="1" * 64), "`linux` is pinned twice"),
    ],
)
def test_a_pin_that_is_not_usable_is_named(text: str, message: str) -> None:
    with pytest.raises(PinError, match=message):
        parse_pins(text)
