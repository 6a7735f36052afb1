"""Trustee's protocol for key brokers, as both of its clients here speak it: request, challenge, attestation, response.

https://github.com/confidential-containers/trustee/blob/main/kbs/docs/kbs_attestation_protocol.md
"""

from __future__ import annotations

import binascii
import hashlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

import msgspec

PROTOCOL_VERSION: Final = "0.4.0"
API_PATH: Final = "/kbs/v0"
SESSION_COOKIE: Final = "kbs-session-id"
REPORT_DATA_SIZE: Final = 64
HASHES: Final = ("sha256", "sha384", "sha512")
DEFAULT_HASH: Final = "sha384"


class Tee(StrEnum):
    """Hardware by the names that the protocol gives it."""

    SNP = "snp"
    TDX = "tdx"
    SGX = "sgx"
    AZ_SNP_VTPM = "az-snp-vtpm"
    AZ_TDX_VTPM = "az-tdx-vtpm"
    TPM = "tpm"
    SAMPLE = "sample"
    """No hardware: evidence that anybody can make."""


class Challenge(msgspec.Struct, frozen=True):
    """The broker's answer to a request for a session."""

    nonce: str
    extra_params: Any = msgspec.field(default=None, name="extra-params")


class AttestationReply(msgspec.Struct, frozen=True):
    """The broker's answer to evidence that it accepts."""

    token: str


def session_request(tee: Tee) -> dict[str, Any]:
    """The body that asks for a challenge."""
    return {
        "version": PROTOCOL_VERSION,
        "tee": tee.value,
        "extra-params": {"supported-hash-algorithms": list(HASHES)},
    }


def selected_hash(challenge: Challenge) -> str:
    """The hash that the broker wants keys bound with. Raises `ValueError` for one that was not offered."""
    extra = challenge.extra_params
    selected = extra.get("selected-hash-algorithm") if isinstance(extra, dict) else None
    if selected is None:
        return DEFAULT_HASH
    if not isinstance(selected, str) or selected.lower() not in HASHES:
        raise ValueError(f"the broker selects the hash {str(selected)[:32]!r}, which was not offered")
    return selected.lower()


def binding(
    public_key: Mapping[str, str], nonce: str, additional_evidence: str, algorithm: str = DEFAULT_HASH
) -> bytes:
    """The digest that binds key and nonce: a hash over RFC 8785 JSON. Report data is this, filled up with zeros."""
    runtime_data = {"tee-pubkey": public_key, "nonce": nonce, "additional-evidence": additional_evidence}
    # All keys are ASCII and all values strings: sorting is all that is left to do for RFC 8785.
    canonical = msgspec.json.encode(runtime_data, order="sorted")
    return hashlib.new(algorithm, canonical).digest()


CLAIMS_MEMBER: Final = "wasmkeep-claims"


def claims_as_evidence(claims: bytes) -> str:
    """A keep's encoded claims as additional evidence, which the binding covers: what tells a broker of its spec.

    Trustee has a map by hardware there; this is no hardware, so a broker must know of it.
    """
    return msgspec.json.encode({CLAIMS_MEMBER: binascii.b2a_base64(claims, newline=False).decode()}).decode()


def report_data(digest: bytes) -> bytes:
    """64 bytes of report data for the digest of `binding`."""
    return digest.ljust(REPORT_DATA_SIZE, b"\0")
