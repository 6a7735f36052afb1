"""What requests to AWS are signed with: from the instance's metadata service, or from a secret of the keep."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import msgspec

from app_loader.key_release.bounded_http import HttpService
from app_loader.key_release.connector import Connector
from app_loader.key_release.errors import CredentialsError, KeyServiceError, MalformedReplyError
from keep_protocol.secret_requests import INSTANCE_METADATA
from keep_protocol.strict_json import decode_strictly

_TOKEN_SECONDS: Final = "60"
_ROLES: Final = "/latest/meta-data/iam/security-credentials/"

_TOKEN: Final = re.compile(rb"[!-~]{1,1024}")
_ROLE: Final = re.compile(rb"[\w+=,.@-]{1,64}", re.ASCII)
_PRINTABLE: Final = "^[!-~]+$"


@dataclass(frozen=True, slots=True, repr=False)
class AwsCredentials:
    """A key and its id; `session_token` comes with temporary ones, as roles give them."""

    access_key_id: str
    secret_access_key: str
    session_token: str | None = None


class _Document(msgspec.Struct, frozen=True, rename="pascal"):
    """What IMDS, `aws sts` and credential processes write. The token has two names among them."""

    access_key_id: str
    secret_access_key: str
    session_token: str | None = None
    token: str | None = None


def decode_credentials(document: bytes) -> AwsCredentials:
    """Credentials from their JSON. Raises `CredentialsError`, with nothing of the document in it."""
    try:
        read = decode_strictly(document, _Document)
    except msgspec.DecodeError:
        raise CredentialsError("the credentials are not JSON with AccessKeyId and SecretAccessKey") from None
    token = read.session_token if read.session_token is not None else read.token
    for value in (read.access_key_id, read.secret_access_key, token):
        # They become part of headers.
        if value is not None and re.fullmatch(_PRINTABLE, value, re.ASCII) is None:
            raise CredentialsError("the credentials have characters in them that credentials never have")
    return AwsCredentials(read.access_key_id, read.secret_access_key, token)


async def instance_credentials(connector: Connector) -> AwsCredentials:
    """Credentials of the role of this instance, by IMDSv2. Raises `KeyReleaseError`."""
    service = HttpService(connector, INSTANCE_METADATA, None)
    lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": _TOKEN_SECONDS}
    token = await _ask(service, "PUT", "/latest/api/token", lifetime)
    if _TOKEN.fullmatch(token) is None:
        raise MalformedReplyError("the instance's metadata service gave no token")
    authorized = {"X-aws-ec2-metadata-token": token.decode()}
    role, *_ = (await _ask(service, "GET", _ROLES, authorized)).split(b"\n")
    if _ROLE.fullmatch(role) is None:
        raise CredentialsError("the instance has no role: its metadata service names none")
    return decode_credentials(await _ask(service, "GET", _ROLES + role.decode(), authorized))


async def _ask(service: HttpService, method: str, path: str, headers: dict[str, str]) -> bytes:
    reply = await service.exchange(method, path, headers=headers)
    if reply.status != 200:
        raise KeyServiceError(f"{service.url}{path}: the instance's metadata service failed (HTTP {reply.status})")
    return reply.content
