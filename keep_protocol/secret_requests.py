"""What a keep asks on the network to get the secrets that its spec names, and whether that spec lets it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from keep_protocol.egress.decision import explain
from keep_protocol.egress.rules import EgressPolicy
from keep_protocol.egress.targets import target_of
from keep_protocol.key_broker import Tee
from keep_protocol.network_policy import Egress
from keep_protocol.secret_sources import AwsKmsSource, KbsSource, SecretCredentials, SecretSource
from keep_protocol.states import EvidenceKind

_HTTPS_PORT: Final = 443

_URL: Final = (
    r"https://(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])"
    r"(?::(?P<port>[1-9][0-9]{0,4}))?(?P<path>(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]+)*)/?"
)
URL_RULE: Final = "https://HOST[:PORT][/PATH], without user, query and fragment"

TEE_OF_EVIDENCE: Final[dict[EvidenceKind, Tee]] = {
    EvidenceKind.SNP: Tee.SNP,
    EvidenceKind.TDX: Tee.TDX,
    EvidenceKind.TPM: Tee.TPM,
    EvidenceKind.SIMULATED: Tee.SAMPLE,
}
"""What a keep tells a broker that it is; brokers know no evidence of other kinds that keeps make."""


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
    policy = EgressPolicy.of(egress)
    for request in requests_of(source):
        target = target_of(request.address.host, request.address.port, request.method)
        decision = explain(policy, target)
        if not decision.allowed:
            raise ValueError(
                f"`{field}.{request.field}` needs {request.method} {target}, which `network.egress` does not allow: "
                f"{decision.reason}"
            )
