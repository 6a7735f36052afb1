"""Fuzzes what finds out what a file holds, and the reader of PCR values beside a quote."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["keep_attestation"]):
    from keep_attestation.errors import MalformedEvidenceError
    from keep_attestation.evidence_files.pcr_values import read_pcr_values
    from keep_attestation.evidence_files.reading import read_evidence

_FOLDER = tempfile.TemporaryDirectory(prefix="wkf")
_FILE = Path(_FOLDER.name, "evidence")


def target(data: bytes) -> None:
    _FILE.write_bytes(data)
    with contextlib.suppress(MalformedEvidenceError):
        assert read_evidence(_FILE).evidence.body
    with contextlib.suppress(MalformedEvidenceError):
        read_pcr_values(data)


def main() -> None:
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
