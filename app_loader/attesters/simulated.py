"""Simulated evidence, for keeps on machines without hardware to attest with."""

from __future__ import annotations

from app_loader.libcrypto import sign_ed25519
from keep_protocol.simulated import UNTRUSTED_SEED, encode_signed_part, encode_simulated


def attest(report_data: bytes, measurement: bytes) -> bytes:
    """Simulated evidence over 64 bytes of report data and the 32-byte SHA-256 of the keep's code.

    Raises `ValueError` for other sizes, `LibcryptoError` if OpenSSL has no Ed25519.
    """
    signed = encode_signed_part(report_data, measurement)
    return encode_simulated(signed, sign_ed25519(UNTRUSTED_SEED, signed))
