"""Sealing as it goes over the wire: data that only the same keep, or the same kind of keep, can open again."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, TypeAlias

import msgspec

from keep_protocol.states import Selector as Selector

MAX_SEALED_DATA: Final = 512 * 1024
"""Bytes of data that are sealed at once; in base64 they fit into a JSON body."""
MAX_SEALED_FILE: Final = 16 * 1024 * 1024
"""Bytes of the content of a file in the area `sealed`; what is longer than `MAX_SEALED_DATA` only runs can open."""
FILE_PURPOSE: Final = "file"
"""What files in the area `sealed` are sealed for."""
MAX_COUNTER: Final = 2**53 - 1

PURPOSE_PATTERN: Final = "^[A-Za-z0-9](?:[A-Za-z0-9_./:-]{0,126}[A-Za-z0-9])?$"


class KeyKind(StrEnum):
    """What a sealing key comes from, and so against whom it protects."""

    HOST = "host"
    """From the keep's host: protects what lies on a disk, and nothing against the host."""
    SNP = "snp"
    """Derived by the processor's firmware for this guest (SNP_GET_DERIVED_KEY)."""
    TPM = "tpm"
    """Sealed by a TPM under a policy over its PCRs."""


class CounterSource(StrEnum):
    """Who gave an envelope its counter."""

    OWNER = "owner"
    """The request that sealed it."""
    TPM = "tpm"
    """A counter of the machine's TPM, which nobody can set back."""


_Base64: TypeAlias = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9+/]*={0,2}$")]
_Counter: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNTER)]
_Purpose: TypeAlias = Annotated[str, msgspec.Meta(pattern=PURPOSE_PATTERN)]


class SealRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Data to be sealed. `purpose` separates uses of one key.

    `counter` should be higher than that of earlier data. Without it a keep with TPM evidence counts by its TPM.
    """

    purpose: _Purpose
    data: _Base64
    bind: Annotated[tuple[Selector, ...], msgspec.Meta(max_length=4)] = ()
    """What to bind to; empty: whatever is usual for the keep's key."""
    counter: _Counter | None = None


class SealingKey(msgspec.Struct, frozen=True):
    """The key that something was sealed with."""

    id: str
    kind: KeyKind
    selectors: tuple[Selector, ...]


class Sealed(msgspec.Struct, frozen=True):
    """An envelope in base64; it can be stored anywhere."""

    sealed: str
    key: SealingKey
    counter: int | None = None
    counted_by: CounterSource | None = None


class UnsealRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An envelope to be opened.

    Older data can be passed off as the latest by whoever stores it. What the keep's TPM has counted is refused unless
    it is the latest for its purpose. For the rest say which `counter` it must have at least, or that you take it as it
    comes.
    """

    sealed: _Base64
    purpose: _Purpose | None = None
    """What it must have been sealed for."""
    allow_rollback: bool = False
    expected_counter: _Counter | None = None


class SealedHeader(msgspec.Struct, frozen=True):
    """What is written on an envelope, which has been verified."""

    version: int
    key: SealingKey
    purpose: str
    counter: int | None
    created: str
    counted_by: CounterSource | None = None


class Unsealed(msgspec.Struct, frozen=True):
    """An opened envelope: `data` in base64."""

    data: str
    header: SealedHeader
    rollback_protected: bool
    """Whether a counter proved that it is no older than it must be."""
