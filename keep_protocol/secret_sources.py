"""Secrets that a keep fetches for itself: from whom, named in its spec, so that no owner has to be there."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Final, TypeAlias

import msgspec

from keep_protocol.resource_names import RESOURCE_PATTERN, RESOURCE_RULE
from keep_protocol.secret_api import MAX_TTL, SECRET_NAME_PATTERN, SECRET_NAME_RULE

MAX_SOURCES: Final = 16
_MAX_ROOTS: Final = 8

_REGION_PATTERN: Final = "^[a-z]{2}(-[a-z]+)+-[0-9]{1,2}$"

_Name: TypeAlias = Annotated[str, msgspec.Meta(max_length=63, pattern=SECRET_NAME_PATTERN)]
_Url: TypeAlias = Annotated[str, msgspec.Meta(max_length=1024, pattern="^https://")]
_Der: TypeAlias = Annotated[str, msgspec.Meta(min_length=4, max_length=16 * 1024, pattern="^[A-Za-z0-9+/]+={0,2}$")]
_Roots: TypeAlias = Annotated[tuple[_Der, ...], msgspec.Meta(min_length=1, max_length=_MAX_ROOTS)]
_Refresh: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=MAX_TTL // 2)]


def _demand(field: str, value: str, pattern: str, rule: str) -> None:
    # The `$` of a pattern in JSON Schema lets a newline follow, and this becomes part of a request.
    if re.fullmatch(pattern, value) is None:
        raise ValueError(f"`{field}` is {rule}, not {value[:100]!r}")


def _check_url(url: str) -> None:
    # Every keep imports these types, and hardly any has a source.
    from keep_protocol.secret_requests import address_of

    address_of(url)


class BrokerKey(StrEnum):
    """The type of key that a broker's replies are encrypted to."""

    EC = "ec"
    """P-256, ECDH-ES+A256KW."""
    RSA = "rsa"
    """3072 bits, RSA-OAEP-256; for brokers that know no other."""


class KbsSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="kbs"):
    """A secret that a key broker with Trustee's protocol gives out to evidence that satisfies it."""

    name: _Name
    """Of the secret in the keep."""
    url: _Url
    """The broker's, without `/kbs/v0`."""
    resource: Annotated[str, msgspec.Meta(max_length=387, pattern=RESOURCE_PATTERN)]
    """`repository/type/tag`."""
    claims: bool = True
    """Bind the keep's claims, its spec's digest among them, as additional evidence. A stock Trustee refuses that."""
    key: BrokerKey = BrokerKey.EC
    refresh: _Refresh | None = None
    """Seconds after which it is fetched anew; None: never, as long as the keep lives."""
    roots: _Roots | None = None
    """Certificates (DER in base64) of which one must have signed the service's; None: those of the system."""

    def __post_init__(self) -> None:
        _demand("name", self.name, SECRET_NAME_PATTERN, SECRET_NAME_RULE)
        _demand("resource", self.resource, RESOURCE_PATTERN, RESOURCE_RULE)
        _check_url(self.url)


class InstanceCredentials(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="imds"):
    """Credentials of the instance's role, from EC2's instance metadata service (version 2)."""


class SecretCredentials(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="secret"):
    """Credentials in a secret of the keep: JSON as `aws sts` prints it, with AccessKeyId and SecretAccessKey."""

    name: _Name


class AwsKmsSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="aws-kms"):
    """A secret that AWS KMS decrypts for an attested Nitro enclave: its ciphertext is in the spec."""

    name: _Name
    """Of the secret in the keep."""
    region: Annotated[str, msgspec.Meta(max_length=32, pattern=_REGION_PATTERN)]
    ciphertext: Annotated[str, msgspec.Meta(min_length=4, max_length=8192, pattern="^[A-Za-z0-9+/]+={0,2}$")]
    """The CiphertextBlob of KMS, in base64."""
    credentials: InstanceCredentials | SecretCredentials
    context: Annotated[
        dict[
            Annotated[str, msgspec.Meta(min_length=1, max_length=256, pattern="^[ -~]+$")],
            Annotated[str, msgspec.Meta(max_length=1024)],
        ],
        msgspec.Meta(max_length=32),
    ] = {}
    """The encryption context that it was encrypted under."""
    key_id: Annotated[str, msgspec.Meta(min_length=1, max_length=2048, pattern="^[!-~]+$")] | None = None
    refresh: _Refresh | None = None
    """Seconds after which it is fetched anew; None: never, as long as the keep lives."""
    roots: _Roots | None = None
    """Certificates (DER in base64) of which one must have signed the service's; None: those of the system."""
    url: _Url | None = None
    """Another URL than the region's public one."""

    def __post_init__(self) -> None:
        _demand("name", self.name, SECRET_NAME_PATTERN, SECRET_NAME_RULE)
        _demand("region", self.region, _REGION_PATTERN, "one of AWS, as eu-central-1")
        if self.url is not None:
            _check_url(self.url)

    @property
    def endpoint(self) -> str:
        """The URL that requests go to."""
        partition = ".cn" if self.region.startswith("cn-") else ""
        return (self.url or f"https://kms.{self.region}.amazonaws.com{partition}").rstrip("/")


SecretSource: TypeAlias = KbsSource | AwsKmsSource
