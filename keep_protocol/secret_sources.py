"""Secrets that a keep fetches for itself: from whom, named in its spec, so that no owner has to be there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Final, NamedTuple, TypeAlias

import msgspec

from keep_protocol.key_broker import RESOURCE_PATTERN, RESOURCE_RULE, Tee
from keep_protocol.network_policy import Egress
from keep_protocol.secret_api import MAX_TTL, SECRET_NAME_PATTERN, SECRET_NAME_RULE
from keep_protocol.states import EvidenceKind

MAX_SOURCES: Final = 16
_MAX_ROOTS: Final = 8
_HTTPS_PORT: Final = 443

# Not compiled here: every keep imports this, and hardly any has a source.
_URL: Final = (
    r"https://(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])"
    r"(?::(?P<port>[1-9][0-9]{0,4}))?(?P<path>(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]+)*)/?"
)
URL_RULE: Final = "https://HOST[:PORT][/PATH], without user, query and fragment"

_REGION_PATTERN: Final = "^[a-z]{2}(-[a-z]+)+-[0-9]{1,2}$"

_Name: TypeAlias = Annotated[str, msgspec.Meta(max_length=63, pattern=SECRET_NAME_PATTERN)]
_Url: TypeAlias = Annotated[str, msgspec.Meta(max_length=1024, pattern="^https://")]
_Der: TypeAlias = Annotated[str, msgspec.Meta(min_length=4, max_length=16 * 1024, pattern="^[A-Za-z0-9+/]+={0,2}$")]
_Roots: TypeAlias = Annotated[tuple[_Der, ...], msgspec.Meta(min_length=1, max_length=_MAX_ROOTS)]
_Refresh: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=MAX_TTL // 2)]

TEE_OF_EVIDENCE: Final[dict[EvidenceKind, Tee]] = {
    EvidenceKind.SNP: Tee.SNP,
    EvidenceKind.TDX: Tee.TDX,
    EvidenceKind.TPM: Tee.TPM,
    EvidenceKind.SIMULATED: Tee.SAMPLE,
}
"""What a keep tells a broker that it is; brokers know no evidence of other kinds that keeps make."""


def _demand(field: str, value: str, pattern: str, rule: str) -> None:
    # The `$` of a pattern in JSON Schema lets a newline follow, and this becomes part of a request.
    if re.fullmatch(pattern, value) is None:
        raise ValueError(f"`{field}` is {rule}, not {value[:100]!r}")


class Address(NamedTuple):
    """Where a service is. `authority` is as in the URL, for the header `Host`; `path` has no slash at its end."""

    host: str
    port: int
    authority: str
    path: str


def address_of(url: str) -> Address:
    """Raises `ValueError` for what is not of `URL_RULE`."""
    match = re.fullmatch(_URL, url, re.ASCII)
    port = int(match["port"] or _HTTPS_PORT) if match else 0
    if match is None or port > 0xFFFF:
        raise ValueError(f"{url[:100]!r} is not {URL_RULE}")
    authority = url[len("https://") :].partition("/")[0]
    return Address(match["host"].strip("[]"), port, authority, match["path"])


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
        address_of(self.url)


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
            address_of(self.url)

    @property
    def endpoint(self) -> str:
        """The URL that requests go to."""
        partition = ".cn" if self.region.startswith("cn-") else ""
        return (self.url or f"https://kms.{self.region}.amazonaws.com{partition}").rstrip("/")


SecretSource: TypeAlias = KbsSource | AwsKmsSource

INSTANCE_METADATA: Final = Address("169.254.169.254", 80, "169.254.169.254", "")
"""IMDS: link-local, and plain HTTP by its nature."""


class Request(NamedTuple):
    """What a keep asks of somebody to get a secret."""

    field: str
    """Of the source, that says whom."""
    address: Address
    method: str
    """Of HTTP."""


def requests_of(source: SecretSource) -> tuple[Request, ...]:
    """All that a keep does on the network for this secret."""
    if isinstance(source, KbsSource):
        broker = address_of(source.url)
        return Request("url", broker, "POST"), Request("url", broker, "GET")
    service = Request("region" if source.url is None else "url", address_of(source.endpoint), "POST")
    if isinstance(source.credentials, SecretCredentials):
        return (service,)
    metadata = (Request("credentials", INSTANCE_METADATA, method) for method in ("PUT", "GET"))
    return (service, *metadata)


def check_sources(sources: Sequence[SecretSource], evidence: EvidenceKind | None, egress: Egress) -> None:
    """Raise `ValueError` if a keep with this evidence and this egress cannot fetch all of these secrets."""
    names = [source.name for source in sources]
    if len(set(names)) != len(names):
        raise ValueError("`secrets` names a secret twice")
    from_kms = {source.name for source in sources if isinstance(source, AwsKmsSource)}
    for number, source in enumerate(sources):
        field = f"secrets[{number}]"
        if isinstance(source, KbsSource):
            if evidence not in TEE_OF_EVIDENCE:
                kinds = ", ".join(f'"{kind}"' for kind in TEE_OF_EVIDENCE)
                raise ValueError(f"`{field}` is from a key broker, and for these `evidence` is one of {kinds}")
        elif evidence is not EvidenceKind.NITRO:
            raise ValueError(f'`{field}` is from AWS KMS, which knows no other `evidence` of keeps than "nitro"')
        elif isinstance(source.credentials, SecretCredentials) and source.credentials.name in from_kms:
            raise ValueError(f"`{field}.credentials` are a secret that AWS KMS would have to give out itself")
        _check_egress(source, field, egress)


def _check_egress(source: SecretSource, field: str, egress: Egress) -> None:
    # Only specs with sources need rules to be read here.
    from keep_protocol.egress.decision import explain
    from keep_protocol.egress.rules import EgressPolicy
    from keep_protocol.egress.targets import target_of

    policy = EgressPolicy.of(egress)
    for request in requests_of(source):
        target = target_of(request.address.host, request.address.port, request.method)
        decision = explain(policy, target)
        if not decision.allowed:
            raise ValueError(
                f"`{field}.{request.field}` needs {request.method} {target}, which `network.egress` does not allow: "
                f"{decision.reason}"
            )
