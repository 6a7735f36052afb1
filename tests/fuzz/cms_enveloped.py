"""Fuzzes the readers of replies that carry keys: CMS of AWS KMS, and flattened JWE of key brokers."""

from __future__ import annotations

import contextlib
import sys

import atheris

with atheris.instrument_imports(include=["keep_attestation"]):
    from keep_attestation.key_release.cms import parse_enveloped_key
    from keep_attestation.key_release.errors import MalformedReplyError
    from keep_attestation.key_release.jwe import parse_flattened_jwe


def target(data: bytes) -> None:
    for parse in (parse_enveloped_key, parse_flattened_jwe):
        with contextlib.suppress(MalformedReplyError):
            parse(data)


def main() -> None:
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
