"""A verdict for machines, with what the keep claims beside it."""

from __future__ import annotations

from typing import Any

import msgspec

from keep_attestation.verdict import Verdict
from keep_protocol.evidence import Claims


def verdict_document(verdict: Verdict, claims: Claims | None) -> dict[str, Any]:
    """The verdict's members, and `claims` with bytes in hex."""
    document: dict[str, Any] = msgspec.json.decode(verdict.to_json())
    if claims is None:
        return document
    members = msgspec.structs.asdict(claims)
    shown = {name: value.hex() if isinstance(value, bytes) else value for name, value in members.items()}
    return document | {"claims": shown}
