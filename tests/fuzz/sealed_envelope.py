"""Fuzzes the reader of sealed envelopes; what it accepts must never open, for the key is not known to the fuzzer."""

from __future__ import annotations

import os
import sys

import atheris

with atheris.instrument_imports(include=["app_loader.sealing"]):
    from app_loader.sealing.envelope import MAGIC, parse, unseal
    from app_loader.sealing.errors import SealingError

_ROOT = os.urandom(32)


def target(data: bytes) -> None:
    for sealed in (data, MAGIC + len(data).to_bytes(4, "big") + data + bytes(16)):
        try:
            envelope = parse(sealed)
            unseal(_ROOT, envelope)
        except SealingError:
            continue
        raise AssertionError("an envelope that nobody sealed was opened")


def main() -> None:
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
