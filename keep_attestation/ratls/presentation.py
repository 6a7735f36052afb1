"""What certificates present: a key, and evidence that claims to be bound to it, by one convention or several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from keep_attestation.evidence import Binding, Evidence
from keep_attestation.verdict import Check
from keep_protocol.evidence import Claims


class Convention(StrEnum):
    """Ways to put evidence into certificates. Only those that somebody names are read."""

    KEEP_EVIDENCE = "keep-evidence-v1"
    """Our own: a collection in id-pe-cmw (RFC 9999)."""
    TCG_DICE = "tcg-dice"
    """Interoperable RA-TLS of the Confidential Computing Consortium: tagged evidence in 2.23.133.5.4.9."""
    GRAMINE = "gramine"
    """Gramine's older certificates: a bare quote."""
    INTEL_SDK = "intel-sdk"
    """Intel SGX SDK: a bare quote beside claims that can be computed anew."""
    ENARX = "enarx"
    """Enarx and Steward, in certificates and in certification requests."""
    COCOS_LEGACY = "cocos-legacy"
    """Cocos AI before 2026-03-26; needs the nonce that went out as server name."""
    DSTACK = "dstack"
    A3S = "a3s"
    """A3S Box. Its identifiers collide with Enarx's: one of the two at most can be accepted."""


Conventions: TypeAlias = frozenset[Convention]

OWN_CONVENTION: Conventions = frozenset({Convention.KEEP_EVIDENCE})


@dataclass(frozen=True, slots=True)
class Bearer:
    """The certificate or certification request that bears evidence, as conventions need it."""

    spki: bytes
    """The SubjectPublicKeyInfo in DER."""
    extensions: Mapping[str, bytes]
    """By dotted OID: the content of extnValue."""
    nonce: bytes | None = None
    """What the verifier sent for it, where a convention has such a thing."""


@dataclass(frozen=True, slots=True)
class Presented:
    """Evidence in a certificate, and what it must be bound to for this certificate's key."""

    convention: Convention
    evidence: Evidence
    binding: Binding
    claims: Claims | None = None
    """Of our own convention alone."""
    checks: tuple[Check, ...] = field(default=())
    """What the convention demands besides the binding."""


def padded(digest: bytes) -> bytes:
    """`digest` as report data: filled up with zeros to 64 bytes, all of which verifiers compare."""
    return digest.ljust(64, b"\0")
