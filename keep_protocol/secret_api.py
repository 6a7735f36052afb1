"""Secrets as they go over the wire between a client and a keep: never with their values in an answer."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Final

import msgspec

MAX_SECRET: Final = 64 * 1024
"""Bytes of a secret's value."""
MAX_SECRETS: Final = 64
"""Secrets that a keep holds at a time."""
MAX_TTL: Final = 365 * 86400
"""Seconds for which a secret may be kept, if it is not kept until the keep ends."""

SECRET_NAME_PATTERN: Final = "^[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$"
SECRET_NAME_RULE: Final = "1 to 63 of A-Z a-z 0-9 . _ -, a letter or digit first and last"

_AS_VARIABLE = {"required": ["env"], "properties": {"env": {"type": "string"}, "file": {"type": "null"}}}
_AS_FILE = {"required": ["file"], "properties": {"file": {"type": "string"}, "env": {"type": "null"}}}
USES_SCHEMA: Final = {"oneOf": [_AS_VARIABLE, _AS_FILE]}
"""What `SecretUse.__post_init__` demands, in JSON Schema for the description of the API."""


class SecretUse(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One secret for a run: as the environment variable `env`, or as the file `file` of the guest."""

    name: Annotated[str, msgspec.Meta(pattern=SECRET_NAME_PATTERN)]
    env: Annotated[str, msgspec.Meta(min_length=1, max_length=1024, pattern="^[^=\\x00]+$")] | None = None
    file: Annotated[str, msgspec.Meta(min_length=2, max_length=4096, pattern="^[^\\x00]+$")] | None = None
    """An absolute path; the run sees its folder, read-only, with the secrets in it and nothing else."""

    def __post_init__(self) -> None:
        if re.fullmatch(SECRET_NAME_PATTERN, self.name) is None:
            raise ValueError(f"the name of a secret is {SECRET_NAME_RULE}")
        if (self.env is None) == (self.file is None):
            raise ValueError("a secret for a run has either `env` or `file`")
        if self.file is not None:
            first, *names = self.file.split("/")
            if first or not names or any(name in {"", ".", ".."} or len(name.encode()) > 255 for name in names):
                raise ValueError("`file` is an absolute path without empty components, '.' and '..'")


class SecretInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """A secret that a keep holds, without its value. Times are RFC 3339 in UTC."""

    name: str
    size: int
    """Bytes of its value."""
    stored_at: str
    expires_at: str | None = None
    """When the keep forgets it; None: when the keep ends."""


class SourceState(StrEnum):
    """Where a secret that the keep fetches stands."""

    WAITING = "waiting"
    """Not fetched yet, or not any more: `failure` says why, if it was tried."""
    FETCHED = "fetched"


class SourceInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """A secret that the keep fetches for itself, as its spec says. Times are RFC 3339 in UTC."""

    name: str
    kind: str
    """`kbs` or `aws-kms`."""
    source: str
    """The broker's resource, or the service, as a URL."""
    state: SourceState
    fetched_at: str | None = None
    """The last time that it was fetched."""
    failed_at: str | None = None
    """The last time that this failed, if that was later."""
    failure: str | None = None
    """Why; never with anything of a value."""
    next_attempt_at: str | None = None


class SecretList(msgspec.Struct, frozen=True, omit_defaults=True):
    """The secrets that a keep holds, by name, and those that it fetches, in the order of its spec."""

    secrets: tuple[SecretInfo, ...]
    sources: tuple[SourceInfo, ...] = ()
