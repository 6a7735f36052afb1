"""What the demo shows of keeps that are virtual machines: their image, its prediction, its proof, and an impostor."""

from __future__ import annotations

import re
import time
from pathlib import Path

import msgspec
from demonstration import HOME, expect, explain, run

from keep_image.manifest import INITRAMFS, MANIFEST, described, encode_manifest, load_manifest

MACHINES = ("qemu", "qemu+vtpm")
MEASURED = "qemu+vtpm"

MEMORY = "512M"
IMAGE = HOME / "image"
"""The host's."""
OWN_IMAGE = HOME / "own-image"
"""Built by the owner of the keep, who believes the host nothing."""

_LOOK_AGAIN = 2.5
"""Seconds after which the manager does not trust its last look at the image any more."""

# LZ4 leaves text that is nowhere repeated as it is; this one no program reads.
_NOTICE = b"Copyright (c) 2001-"
_YEAR = _NOTICE.index(b"1")


def prepare_image(backend: str) -> None:
    """The host builds the guest image and lets the manager use it. Raises `UnexpectedError`."""
    explain("The guest image: kernel and initramfs with nothing but the app-loader, from packages pinned by SHA-256.")
    run("keep-manager", "image", "build", "--output", str(IMAGE))
    setting = f's|^# image = .*|image = "{IMAGE.absolute()}"|'
    run("sed", "-i", setting, f"{HOME}/config/wasmkeep.toml")
    if backend == MEASURED:
        explain(
            "The owner builds it as well, from the same pins, and gets the same bytes. What evidence must say of it"
        )
        print("# follows from these files: PCR 4 (kernel), 9 (command line and initramfs).", flush=True)
        run("keep-manager", "image", "build", "--output", str(OWN_IMAGE))
        run("keep-manager", "image", "diff", str(OWN_IMAGE), str(IMAGE))
        run("keep-manager", "image", "measure", str(OWN_IMAGE), "--backend", backend, "--memory", MEMORY)


def trust(keep: str) -> None:
    """Pin a measured keep that proves to be of the owner's image. Raises `UnexpectedError`."""
    explain(
        "The keep must prove that it booted this image: a quote of its TPM, in the handshake, against the prediction."
    )
    print(
        "# Its TPM is a program of the host's: that shows the whole way, and protects nobody from this host.",
        flush=True,
    )
    told = run(*_trust(keep))
    expect("ACCEPTED" in told, "the verdict is not there")
    for register in (4, 9):
        expect(
            re.search(rf"^pass +tpm\.pcr{register}\b", told, re.MULTILINE) is not None,
            f"PCR {register} was not compared",
        )


def refuse_impostor() -> None:
    """A machine from an image of which the host changed one byte. Raises `UnexpectedError`."""
    explain("An impostor: the host changes one byte of the initramfs. Its own manager refuses to start such an image …")
    initramfs = IMAGE / INITRAMFS
    initramfs.write_bytes(_change_a_byte(initramfs))
    create = ("keepctl", "create", "--name", "impostor", "--backend", MEASURED, "--memory", MEMORY)
    run(*create, status=1)

    explain("… so the host forges the list of digests too. The machine boots, and looks like the other one.")
    manifest = msgspec.structs.replace(load_manifest(IMAGE), initramfs=described(INITRAMFS, initramfs.read_bytes()))
    (IMAGE / MANIFEST).write_bytes(encode_manifest(manifest))
    print(f"  … {IMAGE / MANIFEST} says {manifest.initramfs.sha256[:16]}… of it now", flush=True)
    time.sleep(_LOOK_AGAIN)
    run(*create)

    explain("What it quotes is another PCR 9 than predicted: refused in the handshake, before a byte is sent.")
    told = run(*_trust("impostor"), status=1)
    failed = re.findall(r"^FAIL +(\S+)", told, re.MULTILINE)
    expect(failed == ["tpm.pcr9"], f"it was refused for {', '.join(failed)}, not for PCR 9")
    explain("Nothing of it was pinned, so nothing will be sent to it later either.")
    run("keepctl", "run", "--keep", "impostor", "examples/hello/hello.wasm", status=125)
    run("keepctl", "rm", "impostor")


def _trust(keep: str) -> tuple[str, ...]:
    image = ("--image", str(OWN_IMAGE), "--memory", MEMORY, "--allow-software-tpm")
    return ("keepctl", "trust", keep, *image, "--yes")


def _change_a_byte(initramfs: Path) -> bytes:
    content = bytearray(initramfs.read_bytes())
    position = content.index(_NOTICE) + _YEAR
    before, content[position] = content[position], content[position] ^ 1
    print(f"  … byte {position} of {initramfs}: {before:#04x} becomes {content[position]:#04x}", flush=True)
    return bytes(content)
