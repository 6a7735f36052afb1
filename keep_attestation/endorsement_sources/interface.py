"""What endorsement sources offer, and what those that ask a service need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from keep_attestation.errors import EndorsementsError
from keep_attestation.evidence import Endorsements, Evidence


class EndorsementSource(Protocol):
    """Finds what vouches for evidence. Not trusted: verifiers check everything it gives against pinned anchors."""

    def endorsements_for(self, evidence: Evidence) -> Endorsements:
        """What is missing beside `evidence`, possibly nothing. Raises `EndorsementsError`."""
        ...


class EndorsementNotFoundError(EndorsementsError):
    """The service answered that it has no such thing."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """An answer over HTTPS."""

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    """Names in lower case."""


Fetch: TypeAlias = Callable[[str], Fetched]
"""GETs a URL. Raises `EndorsementNotFoundError` for 404 and `EndorsementsError` for everything else but 200."""
