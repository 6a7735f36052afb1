"""Fuzzes what a keep reads of AWS: replies of KMS with the CMS in them, and credentials."""

from __future__ import annotations

import contextlib
import sys

import atheris

with atheris.instrument_imports(include=["app_loader.key_release"]):
    from app_loader.key_release.aws_credentials import decode_credentials
    from app_loader.key_release.aws_kms import ciphertext_for_recipient
    from app_loader.key_release.ber import parse_ber
    from app_loader.key_release.bounded_http import Reply
    from app_loader.key_release.cms import decrypt_enveloped_key, parse_enveloped_key
    from app_loader.key_release.errors import CredentialsError, KeyReleaseError, MalformedReplyError
    from app_loader.libcrypto_recipient import RsaKey

_KEY = RsaKey(2048)


def target(data: bytes) -> None:
    with contextlib.suppress(MalformedReplyError):
        parse_ber(data)
    with contextlib.suppress(MalformedReplyError):
        parse_enveloped_key(data)
    with contextlib.suppress(CredentialsError):
        decode_credentials(data)
    for status in (200, 400):
        with contextlib.suppress(KeyReleaseError):
            parse_enveloped_key(ciphertext_for_recipient(Reply(status, data)))
    try:
        decrypt_enveloped_key(data, _KEY)
    except MalformedReplyError:
        return
    raise AssertionError("CMS that nobody made for this key was opened")


def main() -> None:
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
