"""Writes reference values as the TOML of a policy, with what they depend on and how far they are proven."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from keep_image.measurement.reference import MeasuredBackend, Shape

_NOTES: Final = {
    MeasuredBackend.VTPM: (
        "PCR 4 is the kernel, PCR 9 command line and initramfs, PCR 11 the spec: compared with real boots.",
        "Where QEMU's version or the firmware's is open, each value that may come is listed.",
        "A policy also needs the attestation key (ak_names), which `keepctl trust` pins.",
    ),
    MeasuredBackend.SNP: (
        "Compared with sev-snp-measure; no launch on hardware has been compared yet.",
        "Depends on firmware, kernel, initramfs, command line, number and model of vCPUs; not on memory.",
    ),
    MeasuredBackend.TDX: (
        "NOT verified on hardware: MRTD by the specification, RTMR1 and RTMR2 from the events of PCR 4 and 9.",
        "RTMR0 depends on memory, vCPUs and ACPI tables, and is not looked at.",
    ),
    MeasuredBackend.NITRO: ("NOT verified on hardware: by the published layout of enclave images.",),
}


def policy_text(tables: Mapping[str, Mapping[str, Any]], shape: Shape, command_line: str) -> str:
    """The policy. Its name says nothing of the keep it is for."""
    machine = f"{shape.backend}, {shape.memory >> 20} MiB, {shape.vcpus} vCPU, {command_line!r}"
    lines = [f"# What evidence says of this image in this machine: {machine}"]
    lines += [f"# {note}" for note in _NOTES[shape.backend]]
    lines += ["", f'name = "image in {shape.backend}"']
    for kind, table in tables.items():
        lines += _table(kind, table)
    return "\n".join(lines) + "\n"


def _table(name: str, table: Mapping[str, Any]) -> Iterator[str]:
    values = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    if values or not table:
        yield ""
        yield f"[{name}]"
    for key, value in values.items():
        yield f"{key} = {_list(value)}"
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _table(f"{name}.{key}", value)


def _list(values: Sequence[str]) -> str:
    """All that reference values are: lists of hex digits and words."""
    if len(values) == 1:
        return f'["{values[0]}"]'
    return "[\n" + "".join(f'    "{value}",\n' for value in values) + "]"
