"""A recognised binary as it goes over the wire: bounded, whatever the binary holds."""

from __future__ import annotations

from collections.abc import Sequence

from keep_protocol.keep_api import WorkloadDescription, WorkloadExport, WorkloadImport
from keep_protocol.webassembly.recognition import Recognition

MAX_LISTED = 1000
"""Imports, and exports; the others are counted."""

_MAX_TEXT = 512


def describe(recognition: Recognition, exports: Sequence[WorkloadExport] | None = None) -> WorkloadDescription:
    """`exports` replace those that the bytes told, where more is known."""
    listed = recognition.exports if exports is None else exports
    imports = recognition.imports
    return WorkloadDescription(
        recognition.kind,
        tuple(WorkloadImport(_cut(each.name), _cut(each.type), each.given) for each in imports[:MAX_LISTED]),
        tuple(WorkloadExport(_cut(each.name), _cut(each.type)) for each in listed[:MAX_LISTED]),
        (*recognition.refusals, *recognition.remarks),
        max(0, len(imports) - MAX_LISTED),
        max(0, len(listed) - MAX_LISTED),
        recognition.features,
    )


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}…"
