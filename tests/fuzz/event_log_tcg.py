"""Fuzzes the reader of TCG event logs, their replay and the explanation of their digests."""

from __future__ import annotations

import contextlib
import sys

import atheris

with atheris.instrument_imports(include=["keep_attestation"]):
    from keep_attestation.errors import MalformedEvidenceError
    from keep_attestation.event_log import HashAlgorithm, explain, measured_data, parse_tcg_log, replay, replay_ccel


def target(data: bytes) -> None:
    try:
        events = parse_tcg_log(data)
    except MalformedEvidenceError:
        return
    for event in events:
        explain(event)
        measured_data(event)
    for algorithm in HashAlgorithm:
        with contextlib.suppress(MalformedEvidenceError):
            replay(events, algorithm)
    with contextlib.suppress(MalformedEvidenceError):
        replay_ccel(events)


def main() -> None:
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
