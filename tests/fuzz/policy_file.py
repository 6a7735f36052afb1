"""Fuzzes the reader of policies, and how their digests and rules are made."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["keep_attestation"]):
    from keep_attestation.errors import PolicyError
    from keep_attestation.policy import parse_policy

from keep_protocol.evidence import EvidenceKind


def target(data: bytes) -> None:
    try:
        policy = parse_policy(data.decode(errors="replace"))
    except PolicyError:
        return
    assert len(policy.digest) == 64
    for kind in EvidenceKind:
        policy.appraise(kind, {})


def main() -> None:
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
