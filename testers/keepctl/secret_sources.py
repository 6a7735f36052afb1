"""From options of `keepctl create` to the secrets that the new keep fetches for itself."""

from __future__ import annotations

import argparse
from base64 import b64encode
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from keep_client import InvalidArgumentError
from keep_protocol.secret_sources import (
    AwsKmsSource,
    BrokerKey,
    InstanceCredentials,
    KbsSource,
    SecretCredentials,
    SecretSource,
)
from testers.keepctl.quantities import whole_duration


class _FromKms(NamedTuple):
    name: str
    region: str
    ciphertext: Path


def add_secret_source_options(parser: argparse.ArgumentParser) -> None:
    """What a new keep fetches by its evidence, and from whom."""
    group = parser.add_argument_group("secrets that the keep fetches by its evidence, without you")
    group.add_argument(
        "--secret-from-kbs",
        metavar="NAME=URL#REPOSITORY/TYPE/TAG",
        type=secret_from_kbs,
        action="append",
        default=[],
        help="from a key broker with Trustee's protocol, such as db=https://kbs.example.com#default/password/db",
    )
    group.add_argument(
        "--secret-from-kms",
        metavar="NAME=REGION:FILE",
        type=secret_from_kms,
        action="append",
        default=[],
        help="by AWS KMS from this file's CiphertextBlob (keeps with nitro evidence), such as db=eu-central-1:db.kms",
    )
    group.add_argument(
        "--secret-roots", metavar="FILE", type=Path, help="PEM with the roots of these services (default: the system's)"
    )
    group.add_argument("--secret-refresh", metavar="TIME", type=whole_duration, help="fetch them anew every TIME")
    group.add_argument(
        "--kbs-key",
        choices=[each.value for each in BrokerKey],
        default=BrokerKey.EC,
        help="what the broker encrypts to: ec, or rsa for brokers that know no other",
    )
    group.add_argument(
        "--kbs-without-claims",
        action="store_true",
        help="do not tell the broker of the spec: a stock Trustee refuses evidence with our claims beside it",
    )
    group.add_argument(
        "--kms-credentials",
        metavar="SECRET",
        help="the keep's secret that signs for KMS (default: the instance's role)",
    )
    group.add_argument(
        "--kms-context",
        metavar="KEY=VALUE",
        type=_pair,
        action="append",
        default=[],
        help="of the encryption context that it was encrypted under",
    )


def secret_from_kbs(text: str) -> KbsSource:
    """`NAME=URL#REPOSITORY/TYPE/TAG`. Raises `argparse.ArgumentTypeError`."""
    name, equals, rest = text.partition("=")
    url, hash_sign, resource = rest.partition("#")
    try:
        if not (equals and hash_sign):
            raise ValueError("it has no '=' or no '#'")
        return KbsSource(name, url, resource)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=URL#REPOSITORY/TYPE/TAG ({error})") from None


def secret_from_kms(text: str) -> _FromKms:
    """`NAME=REGION:FILE`. Raises `argparse.ArgumentTypeError`."""
    name, _, rest = text.partition("=")
    region, _, file = rest.partition(":")
    if not (name and region and file):
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=REGION:FILE, as db=eu-central-1:db.kms")
    return _FromKms(name, region, Path(file))


def secret_sources_of(options: argparse.Namespace) -> tuple[SecretSource, ...]:
    """What `add_secret_source_options` collected. Raises `InvalidArgumentError`, or `OSError` for files."""
    if not (options.secret_from_kbs or options.secret_from_kms):
        _refuse_orphans(options)
        return ()
    roots = None if options.secret_roots is None else _roots(options.secret_roots)
    refresh = options.secret_refresh
    by_broker = (
        KbsSource(
            source.name,
            source.url,
            source.resource,
            claims=not options.kbs_without_claims,
            key=BrokerKey(options.kbs_key),
            refresh=refresh,
            roots=roots,
        )
        for source in options.secret_from_kbs
    )
    signer = InstanceCredentials() if options.kms_credentials is None else SecretCredentials(options.kms_credentials)
    by_kms = (
        AwsKmsSource(
            source.name,
            source.region,
            b64encode(source.ciphertext.read_bytes()).decode(),
            signer,
            context=dict(options.kms_context),
            refresh=refresh,
            roots=roots,
        )
        for source in options.secret_from_kms
    )
    try:
        return (*by_broker, *by_kms)
    except ValueError as error:
        raise InvalidArgumentError(f"a secret that the keep is to fetch is not valid: {error}") from error


def _refuse_orphans(options: argparse.Namespace) -> None:
    given = {
        "--secret-roots": options.secret_roots is not None,
        "--secret-refresh": options.secret_refresh is not None,
        "--kbs-without-claims": options.kbs_without_claims,
        "--kms-credentials": options.kms_credentials is not None,
        "--kms-context": bool(options.kms_context),
    }
    if named := [option for option, is_given in given.items() if is_given]:
        raise InvalidArgumentError(
            f"{', '.join(named)} says how secrets are fetched: name them with --secret-from-kbs or --secret-from-kms"
        )


def _roots(path: Path) -> tuple[str, ...]:
    try:
        certificates = x509.load_pem_x509_certificates(path.read_bytes())
    except ValueError as error:
        raise InvalidArgumentError(f"{path} holds no certificates in PEM: {error}") from None
    return tuple(b64encode(certificate.public_bytes(Encoding.DER)).decode() for certificate in certificates)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"{text!r}: expected KEY=VALUE")
    return key, value
