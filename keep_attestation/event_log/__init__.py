"""TCG event logs: what firmware and boot loaders say they extended into PCRs and RTMRs.

A log is unsigned. Nothing in it may be believed before `replay` gives the registers that a quote signs, and then only
its digests; an event's data only where `explain` shows that the digest is over it.
"""

from __future__ import annotations

from keep_attestation.event_log.ccel_table import CcelTable, parse_ccel_table
from keep_attestation.event_log.event import Event, EventType, HashAlgorithm
from keep_attestation.event_log.explanation import Explanation, explain, explained_digests, measured_data
from keep_attestation.event_log.parser import parse_tcg_log
from keep_attestation.event_log.registers import replay, replay_ccel

__all__ = [
    "CcelTable",
    "Event",
    "EventType",
    "Explanation",
    "HashAlgorithm",
    "explain",
    "explained_digests",
    "measured_data",
    "parse_ccel_table",
    "parse_tcg_log",
    "replay",
    "replay_ccel",
]
