"""Simulated evidence: shows every step of attestation on machines without its hardware, and proves nothing.

Its private key is published right here, so anybody can make any of it. It has a media type and a structure of its own:
no verifier of real hardware can take it for a report, and a production policy refuses it by its kind, unparsed.
"""

from __future__ import annotations

import hashlib
from typing import Final

from keep_protocol.evidence import encode_cbor

FORMAT: Final = "wasmkeep-simulated-v1"
REPORT_DATA_SIZE: Final = 64
MEASUREMENT_SIZE: Final = 32
SIGNATURE_SIZE: Final = 64

UNTRUSTED_SEED: Final = hashlib.sha256(f"{FORMAT}: UNTRUSTED development key".encode()).digest()
"""The Ed25519 private key, from a sentence that everybody can read."""
UNTRUSTED_PUBLIC_KEY: Final = bytes.fromhex("14e60e34efe872f52a64c6589f994bdd6297b0e892d15e9765a4bcdf084329e8")


class BodyKey:
    """Keys of the signed map."""

    FORMAT = 1
    REPORT_DATA = 2
    MEASUREMENT = 3


def encode_signed_part(report_data: bytes, measurement: bytes) -> bytes:
    """What the development key signs, in deterministic CBOR. Raises `ValueError` for wrong sizes."""
    if len(report_data) != REPORT_DATA_SIZE:
        raise ValueError(f"report data has {REPORT_DATA_SIZE} bytes, not {len(report_data)}")
    if len(measurement) != MEASUREMENT_SIZE:
        raise ValueError(f"a measurement has {MEASUREMENT_SIZE} bytes, not {len(measurement)}")
    return encode_cbor({BodyKey.FORMAT: FORMAT, BodyKey.REPORT_DATA: report_data, BodyKey.MEASUREMENT: measurement})


def encode_simulated(signed: bytes, signature: bytes) -> bytes:
    """The evidence: a CBOR array of the signed part, as bytes, and its Ed25519 signature (RFC 8032)."""
    return encode_cbor([signed, signature])
