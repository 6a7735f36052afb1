"""Fuzzes the reader of dstack's event logs."""

from __future__ import annotations

import contextlib
import sys

import atheris

with atheris.instrument_imports(include=["keep_attestation"]):
    from keep_attestation.errors import MalformedEvidenceError
    from keep_attestation.tdx.dstack_log import parse_dstack_log, replay_dstack_log


def target(data: bytes) -> None:
    with contextlib.suppress(MalformedEvidenceError):
        replay_dstack_log(parse_dstack_log(data))


def main() -> None:
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
