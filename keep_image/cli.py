"""`keep-manager image`: builds guest images, shows and compares them, predicts what evidence says of them."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from keep_image.errors import MeasurementError

if TYPE_CHECKING:
    from keep_image.measurement.reference import Shape
    from keep_image.own_kernel import KernelStore, OwnKernel, Recipe
    from keep_image.package_store import PackageStore
    from keep_image.pins import Pins

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def add_image_commands(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> argparse._SubParsersAction[argparse.ArgumentParser]:
    """Declare `image` and what belongs to it; returns its commands, for such as need a host."""
    summary = "build, show, compare and measure the image that virtual machines of keeps boot"
    image = commands.add_parser("image", help=summary, description=summary.capitalize() + ".")
    subcommands = image.add_subparsers(metavar="COMMAND", required=True)

    build = _command(subcommands, "build", _build, "make kernel and initramfs from the pinned packages")
    build.add_argument("--output", metavar="DIR", help="where to (default: where the other commands look)")
    build.add_argument(
        "--kernel", default="debian", metavar="debian|own|FILE", help="what `image kernel build` made, or any bzImage"
    )
    build.add_argument("--packages", metavar="DIR", help="package files that need not be fetched")
    build.add_argument("--cache", metavar="DIR", help="where fetched packages and our own kernels are kept")

    _add_kernel(subcommands)

    show = _command(subcommands, "show", _show, "print size, packages, contents and digests of an image")
    _add_image(show)
    show.add_argument("--contents", action="store_true", help="every file of the initramfs too")
    show.add_argument("--json", action="store_true")

    diff = _command(
        subcommands, "diff", _diff, "explain how two images, or two measurements, differ; status 1 when they do"
    )
    diff.add_argument("first", metavar="DIR|FILE", help="an image's folder, or what `measure` printed")
    diff.add_argument("second", metavar="DIR|FILE")
    diff.add_argument("--json", action="store_true")

    measure = _command(subcommands, "measure", _measure, "predict what evidence says of an image, as a policy")
    _add_image(measure)
    add_shape(measure)
    measure.add_argument("--json", action="store_true", help="the values alone")
    return subcommands


def _add_kernel(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    summary = "compile our own small kernel, for `image build --kernel own`"
    kernel = commands.add_parser("kernel", help=summary, description=summary.capitalize() + ".")
    subcommands = kernel.add_subparsers(metavar="COMMAND", required=True)
    build = _command(subcommands, "build", _build_kernel, "compile it from Debian's pinned source, or find it kept")
    build.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="at once (%(default)s)")
    build.add_argument("--packages", metavar="DIR", help="where the source's package need not be fetched from")
    build.add_argument("--cache", metavar="DIR", help="where packages and kernels are kept")


def add_shape(parser: argparse.ArgumentParser) -> None:
    """The options that `shape_of` reads."""
    from keep_image.measurement.reference import MeasuredBackend
    from keep_image.measurement.snp import CPU_MODELS, DEFAULT_CPU_MODEL

    parser.add_argument("--backend", required=True, choices=[*MeasuredBackend], help="how it will be run")
    parser.add_argument("--memory", required=True, metavar="SIZE", help="of the machine, such as 512M")
    parser.add_argument("--vcpus", type=int, default=1, metavar="N", help="of the machine (%(default)s)")
    parser.add_argument("--cpu-model", choices=[*CPU_MODELS], default=DEFAULT_CPU_MODEL, help="for snp (%(default)s)")
    parser.add_argument("--firmware", metavar="FILE", help="OVMF; needed for snp and tdx")
    parser.add_argument("--cmdline", metavar="TEXT", help="instead of the image's own kernel command line")
    parser.add_argument("--qemu-version", metavar="X.Y", help="narrows what QEMU does to the kernel")
    parser.add_argument("--spec-digest", metavar="HEX", help="SHA-256 of the spec that the machine is launched for")


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    act: Callable[[argparse.Namespace], int],
    summary: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=summary, description=summary.capitalize() + ".")
    parser.set_defaults(command=act)
    return parser


def _add_image(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", nargs="?", metavar="DIR", help="the image's folder (default: where `build` puts it)")


def _folder(given: str | None) -> Path:
    from keep_image.manifest import default_folder

    return Path(given) if given else default_folder()


def _build(options: argparse.Namespace) -> int:
    from keep_image.build import build_image
    from keep_image.pins import load_pins

    output, pins = _folder(options.output), load_pins()
    kernel: Path | OwnKernel | None = None
    if options.kernel == "own":
        kernels, recipe = _kernels(options, pins)
        kernel = kernels.require(recipe)
    elif options.kernel != "debian":
        kernel = Path(options.kernel)
    manifest = build_image(output, pins, _packages(options), kernel=kernel)
    print(f"image:     {output}, {_megabytes(manifest.size)}")
    print(f"kernel:    {manifest.kernel.sha256}  {_megabytes(manifest.kernel.size)}")
    print(f"initramfs: {manifest.initramfs.sha256}  {_megabytes(manifest.initramfs.size)}")
    return 0


def _build_kernel(options: argparse.Namespace) -> int:
    from keep_image.kernel_tools import check_tools
    from keep_image.pins import load_pins

    pins = load_pins()
    kernels, recipe = _kernels(options, pins)
    if kernels.find(recipe) is None:
        check_tools()
        source = f"{pins.kernel_source.name} {pins.kernel_source.version}"
        print(f"compiling {source}: some ten minutes of a processor, 2 GB below the cache", flush=True)
    kernel = kernels.build(recipe, _packages(options), jobs=max(1, options.jobs))
    print(f"kernel:  {kernel.path}, Linux {kernel.facts.release}, {_megabytes(kernel.facts.size)}")
    print(f"sha256:  {kernel.facts.sha256}")
    print(f"source:  {kernel.facts.source}  {kernel.facts.source_sha256}")
    print(f"options: {kernel.facts.config_sha256}")
    print(f"tools:   {'; '.join(kernel.facts.tools)}")
    return 0


def _packages(options: argparse.Namespace) -> PackageStore:
    from keep_image.package_store import PackageStore

    return PackageStore(_cache(options), folder=Path(options.packages) if options.packages else None)


def _kernels(options: argparse.Namespace, pins: Pins) -> tuple[KernelStore, Recipe]:
    from keep_image.kernel_tools import kernel_tools
    from keep_image.own_kernel import KernelStore, kernel_folder, recipe

    return KernelStore(kernel_folder(_cache(options))), recipe(pins.kernel_source, kernel_tools())


def _cache(options: argparse.Namespace) -> Path:
    from keep_image.package_store import default_cache

    return Path(options.cache) if options.cache else default_cache()


def _show(options: argparse.Namespace) -> int:
    from keep_image.manifest import check_files, encode_manifest, load_manifest

    folder = _folder(options.image)
    manifest = load_manifest(folder)
    check_files(folder, manifest)
    if options.json:
        sys.stdout.write(encode_manifest(manifest).decode())
        return 0
    print(f"image      {folder}, {_megabytes(manifest.size)} in all, of wasmkeep {manifest.wasmkeep}")
    for label, file in (("kernel", manifest.kernel), ("initramfs", manifest.initramfs)):
        print(f"{label:<10} {file.sha256}  {_megabytes(file.size)}")
    print(f"unpacked   {_megabytes(manifest.unpacked.size)}, {len(manifest.contents)} entries")
    print(f"linux      {manifest.kernel_release}")
    if manifest.kernel_tools:
        print(f"compiled   by {'; '.join(manifest.kernel_tools)}")
    print(f"python     {manifest.python}")
    print(f"cmdline    {manifest.command_line}")
    print("\npackages")
    for component in manifest.components:
        print(f"  {component.origin:<9} {component.name} {component.version}  {component.sha256}")
    if options.contents:
        print("\ncontents")
        for content in manifest.contents:
            print(f"  {content.mode:06o} {content.size:>9} {content.sha256[:16]} /{content.path}")
    return 0


def _diff(options: argparse.Namespace) -> int:
    from keep_image.comparison import changed_measurements, differences, measurement_differences, read_measurement
    from keep_image.manifest import load_manifest

    if Path(options.first).is_file() and Path(options.second).is_file():
        values = (read_measurement(Path(options.first)), read_measurement(Path(options.second)))
        found, changed = measurement_differences(*values), []
    else:
        first, second = load_manifest(Path(options.first)), load_manifest(Path(options.second))
        found, changed = differences(first, second), changed_measurements(first, second)
    if options.json:
        document = [{"what": each.what, "before": each.before, "after": each.after} for each in found]
        print(json.dumps({"differences": document, "measurements": changed}, indent=1))
        return 1 if found else 0
    for each in found:
        print(each.what)
        print(f"  - {each.before or 'not there'}")
        print(f"  + {each.after or 'not there'}")
    for line in changed:
        print(f"evidence changes by {line}")
    if not found:
        print("evidence says the same of both")
    return 1 if found else 0


def _measure(options: argparse.Namespace) -> int:
    from keep_image.manifest import load_manifest
    from keep_image.measurement.policy_text import policy_text
    from keep_image.measurement.reference import reference_values

    folder = _folder(options.image)
    shape = shape_of(options)
    tables = reference_values(folder, shape)
    if options.json:
        print(json.dumps(tables, indent=1))
        return 0
    command_line = load_manifest(folder).command_line if shape.command_line is None else shape.command_line
    sys.stdout.write(policy_text(tables, shape, command_line))
    return 0


def shape_of(options: argparse.Namespace) -> Shape:
    """The machine that the options of `add_shape` describe. Raises `MeasurementError`."""
    from keep_image.measurement.reference import MeasuredBackend, Shape, parse_qemu_version

    return Shape(
        backend=MeasuredBackend(options.backend),
        memory=_parse_size(options.memory),
        vcpus=options.vcpus,
        cpu_model=options.cpu_model,
        firmware=Path(options.firmware) if options.firmware else None,
        command_line=options.cmdline,
        qemu_version=parse_qemu_version(options.qemu_version) if options.qemu_version else None,
        spec_digest=options.spec_digest,
    )


def _parse_size(text: str) -> int:
    number, unit = (text[:-1], text[-1:].upper()) if text[-1:].upper() in _UNITS else (text, "")
    if not number.isdecimal() or int(number) == 0:
        raise MeasurementError(f"--memory {text!r} is no size, such as 512M or 2G")
    return int(number) * _UNITS.get(unit, 1)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
