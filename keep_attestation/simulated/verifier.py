"""Examines simulated evidence: that it is well-formed and bound, as real evidence would be; it proves nothing."""

from __future__ import annotations

import hashlib
from datetime import datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from keep_attestation.evidence import Binding, Evidence
from keep_attestation.simulated.evidence import parse_simulated
from keep_attestation.verdict import Checks, Examination
from keep_protocol.simulated import UNTRUSTED_PUBLIC_KEY


def examine_simulated(evidence: Evidence, *, binding: Binding | None, at: datetime) -> Examination:
    """Parse, verify the signature by the published development key, compare all 64 bytes of report data.

    `at` changes nothing: the development key has no certificate. Raises `MalformedEvidenceError`.
    """
    parsed = parse_simulated(evidence.body)
    checks = Checks()
    checks.note(
        "simulated.hardware",
        "simulated evidence proves nothing about hardware: its key is published and anybody can make it",
    )
    genuine = checks.expect(
        "simulated.signature",
        _signature_holds(parsed.signature, parsed.signed),
        passed="signed by the published development key",
        failed="not signed by the published development key",
    )
    if genuine and binding is not None:
        checks.expect(
            "simulated.binding",
            binding.report_data is not None and parsed.report_data == binding.report_data,
            passed="all 64 bytes of report data are as demanded",
            failed=f"report data is {parsed.report_data.hex()}, not {(binding.report_data or b'').hex() or 'demanded'}",
        )
    return Examination(
        checks=checks.made,
        facts={
            "simulated": True,
            "measurement": parsed.measurement.hex(),
            "report_data": parsed.report_data.hex(),
        },
        identity=hashlib.sha256(parsed.signed).hexdigest(),
    )


def _signature_holds(signature: bytes, signed: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(UNTRUSTED_PUBLIC_KEY).verify(signature, signed)
    except InvalidSignature:
        return False
    return True
