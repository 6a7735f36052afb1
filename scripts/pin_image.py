"""Writes keep_image/pins.toml anew: the newest packages of Debian's archives, checked by the archives' signatures.

Run it where apt is configured for Debian: the archives are apt's, the keys those of debian-archive-keyring.
"""

from __future__ import annotations

import argparse
import hashlib
import lzma
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cmp_to_key
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from keep_image.package_store import _APT_HELPER, _archives  # noqa: E402
from keep_image.pins import PINS, DebianPackage, PackageUse, Pins, Wheel, load_pins, parse_pins  # noqa: E402

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
USERLAND = "bookworm"
KERNEL = "trixie"
INDEX = "main/binary-amd64/Packages.xz"
KERNEL_NAME = re.compile(r"linux-image-(\d\S*)-cloud-amd64")
SOURCE_NAME = re.compile(r"linux-source-\d+\.\d+")

Record = dict[str, str]


def fetch(address: str, target: Path) -> bool:
    """Whether apt could fetch it."""
    done = subprocess.run([_APT_HELPER, "download-file", address, str(target)], capture_output=True)
    return done.returncode == 0 and target.is_file()


def records(suite: str, folder: Path) -> Iterator[Record]:
    """What all archives of this suite, security's too, have in `main`."""
    for number, archive in enumerate(_archives()):
        for name in (suite, f"{suite}-security"):
            base = f"{archive.rstrip('/')}/dists/{name}"
            signed, plain, index = (folder / f"{number}-{name}-{part}" for part in ("signed", "plain", "index"))
            if not fetch(f"{base}/InRelease", signed):
                continue
            command = ["gpgv", "--quiet", "--keyring", str(KEYRING), "--output", str(plain), str(signed)]
            if subprocess.run(command, capture_output=True).returncode != 0:
                continue  # an archive of somebody else's
            digest = re.search(rf"^ ([0-9a-f]{{64}}) +\d+ {re.escape(INDEX)}$", plain.read_text(), re.MULTILINE)
            if digest is None or not fetch(f"{base}/{INDEX}", index):
                continue
            content = index.read_bytes()
            if hashlib.sha256(content).hexdigest() != digest[1]:
                sys.exit(f"{base}/{INDEX} is not what the archive signed")
            for stanza in lzma.decompress(content).decode().split("\n\n"):
                yield dict(re.findall(r"^([A-Za-z0-9-]+): (.*)$", stanza, re.MULTILINE))


def newer(first: Record, second: Record) -> int:
    """Debian's order of versions."""
    command = ["dpkg", "--compare-versions", first["Version"], "lt", second["Version"]]
    return -1 if subprocess.run(command).returncode == 0 else 1


def newest(found: list[Record]) -> Record:
    return max(found, key=cmp_to_key(newer))


def pinned(record: Record, use: PackageUse) -> DebianPackage:
    return DebianPackage(
        name=record["Package"],
        version=record["Version"],
        use=use,
        path=record["Filename"],
        size=int(record["Size"]),
        sha256=record["SHA256"],
    )


def wheels(now: Pins) -> list[Wheel]:
    """The versions of requirements.lock, with the hashes that it has."""
    locked = (ROOT / "requirements.lock").read_text()
    found = []
    for wheel in now.wheels:
        version = re.search(rf"^{wheel.name}==(\S+) ", locked, re.MULTILINE)
        if version is None:
            sys.exit(f"requirements.lock has no {wheel.name}")
        with tempfile.TemporaryDirectory() as name:
            platforms = [f"--platform={each}" for each in ("manylinux_2_28_x86_64", "manylinux1_x86_64")]
            platforms += ["--platform=manylinux_2_17_x86_64", "--platform=manylinux2014_x86_64"]
            pip = [sys.executable, "-m", "pip", "--quiet", "download", "--no-deps", "--only-binary=:all:"]
            python = ["--implementation=cp", f"--python-version={now.python}"]
            what = ["--dest", name, f"{wheel.name}=={version[1]}"]
            subprocess.run([*pip, *python, *platforms, *what], check=True)
            (file,) = Path(name).iterdir()
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            if f"sha256:{digest}" not in locked:
                sys.exit(f"requirements.lock does not have the hash of {file.name}")
            found.append(Wheel(wheel.name, version[1], file.name, digest))
    return found


def table(kind: str, fields: dict[str, object]) -> str:
    lines = [f"{key} = {value}" if isinstance(value, int) else f'{key} = "{value}"' for key, value in fields.items()]
    return "\n".join([f"[[{kind}]]", *lines])


def text(python: str, release: str, packages: list[DebianPackage], found: list[Wheel]) -> str:
    """The lock file."""
    head = PINS.read_text().partition("\npython =")[0]
    parts = [head.rstrip(), f'python = "{python}"\nkernel_release = "{release}"']
    parts += [table("packages", {field: getattr(each, field) for field in each.__struct_fields__}) for each in packages]
    parts += [table("wheels", {field: getattr(each, field) for field in each.__struct_fields__}) for each in found]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    now = load_pins()
    with tempfile.TemporaryDirectory() as name:
        userland = list(records(USERLAND, Path(name)))
        trixie = [each for each in records(KERNEL, Path(name)) if each.get("Package", "").startswith("linux-")]
    kernels = [each for each in trixie if KERNEL_NAME.fullmatch(each["Package"])]
    sources = [each for each in trixie if SOURCE_NAME.fullmatch(each["Package"])]
    if not userland or not kernels or not sources:
        sys.exit(f"no archive of apt's has {USERLAND} and {KERNEL}, signed by Debian")
    kernel = newest(kernels)
    packages = [pinned(kernel, PackageUse.KERNEL), pinned(newest(sources), PackageUse.SOURCE)]
    for package in now.userland:
        packages.append(pinned(newest([each for each in userland if each.get("Package") == package.name]), package.use))
    release = kernel["Package"].removeprefix("linux-image-")
    content = text(now.python, release, packages, wheels(now))
    parse_pins(content)
    PINS.write_text(content)


if __name__ == "__main__":
    main()
