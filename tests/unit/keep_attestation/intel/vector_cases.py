"""Reads real Intel evidence and what verifying it must say."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from keep_attestation.evidence import Endorsements, Evidence
from keep_protocol.evidence import EvidenceKind
from tests.unit.keep_attestation.intel.forge import Tee

_OWN_NAMES = {f"rt_mr{number}": f"rtmr{number}" for number in range(4)}
_NOT_FACTS = frozenset({"ca", "pck", "tdx_report", "quote_len", "fmspc", "fmspc_error"})


@dataclass(frozen=True)
class Vector:
    """One folder."""

    folder: Path
    tee: Tee
    expected: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def body(self) -> bytes:
        return (self.folder / "quote.bin").read_bytes()

    @property
    def facts(self) -> dict[str, Any]:
        """Expected of the quote, by the names that examinations use."""
        return {
            _OWN_NAMES.get(name, name): value
            for name, value in self.expected["facts"].items()
            if name not in _NOT_FACTS
        }

    @property
    def pck_facts(self) -> dict[str, Any]:
        """Expected of the PCK certificate."""
        facts = self.expected["facts"]
        if "pck" not in facts:
            return {}
        pck = facts["pck"]
        return {
            "ppid": pck["ppid"],
            "pck_pce_svn": pck["pce_svn"],
            "pce_id": pck["pce_id"],
            "pck_cpu_svn": pck["cpu_svn"],
            "sgx_type": pck["sgx_type"],
            "fmspc": facts["fmspc"].lower(),
            "pck_ca": facts["ca"],
        }

    def evidence(self, collateral: bytes | None = None, *, body: bytes | None = None) -> Evidence:
        return Evidence(
            kind=EvidenceKind(self.tee), body=body or self.body, endorsements=Endorsements(collateral=collateral)
        )


@dataclass(frozen=True)
class Window:
    """A vector with collateral at a time, and the outcome."""

    vector: Vector
    collateral: bytes
    dates: Mapping[str, Any]
    at: datetime
    verified: bool
    error: str | None
    tcb_status: str | None
    advisories: tuple[str, ...]

    @property
    def evidence(self) -> Evidence:
        return self.vector.evidence(self.collateral)


def read_vectors(root: Path, tee: Tee) -> list[Vector]:
    """Those with a quote of real hardware."""
    found = [
        Vector(path.parent, tee, json.loads((path.parent / "expected.json").read_text()))
        for path in sorted((root / tee).glob("*/quote.bin"))
    ]
    assert found, f"no vectors of {tee}"
    return found


def windows(root: Path, tee: Tee) -> Iterator[Window]:
    """Every vector in every collateral window that its expectations name."""
    for vector in read_vectors(root, tee):
        for outcome in vector.expected["verify"]["dcap_qvl_0_7_0"]:
            path = root / "collateral" / f"{outcome['collateral']}.json"
            yield Window(
                vector=vector,
                collateral=path.read_bytes(),
                dates=json.loads(path.with_suffix(".meta.json").read_text()),
                at=datetime.fromtimestamp(outcome["at"], UTC),
                verified=outcome["result"] == "verified",
                error=outcome.get("error"),
                tcb_status=outcome.get("tcb_status"),
                advisories=tuple(outcome.get("advisories", ())),
            )
