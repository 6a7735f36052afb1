"""Evidence as other systems put it into certificates, and a stand-in for the verifiers of its hardware."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any

import cbor2
from asn1crypto import core
from cryptography.hazmat.primitives.asymmetric import ec

from keep_attestation.evidence import Binding, Evidence
from keep_attestation.policy import Policy
from keep_attestation.ratls.certificate import PresentedEvidence, read_ratls
from keep_attestation.ratls.peer import PeerVerdict, verify_foreign
from keep_attestation.ratls.policy import CertificatePolicy
from keep_attestation.ratls.presentation import Convention, Conventions
from keep_attestation.simulated.policy import SimulatedPolicy
from keep_attestation.verdict import Check, Examination, Outcome
from keep_protocol.evidence import EvidenceKind
from tests.unit.keep_attestation.ratls.makers import AT, MEASUREMENT, spki_of

KEY = ec.generate_private_key(ec.SECP256R1())
SPKI = spki_of(KEY)
KEY_384 = ec.generate_private_key(ec.SECP384R1())

REPORT_DATA = {EvidenceKind.SGX: slice(368, 432), EvidenceKind.TDX: slice(568, 632), EvidenceKind.SNP: slice(80, 144)}


def sgx_quote(report_data: bytes) -> bytes:
    return b"\x03\0\x02\0".ljust(368, b"\0") + report_data.ljust(64, b"\0") + bytes(100)


def tdx_quote(report_data: bytes) -> bytes:
    return b"\x04\0\x02\0\x81\0\0\0".ljust(568, b"\0") + report_data.ljust(64, b"\0") + bytes(100)


def snp_report(report_data: bytes) -> bytes:
    return (b"\x02\0\0\0".ljust(80, b"\0") + report_data.ljust(64, b"\0")).ljust(1184, b"\0")


def binding_alone(evidence: Evidence, *, binding: Binding | None, at: datetime) -> Examination:
    """Stands for the verifiers of hardware, which other tests look at: compares report data as they do."""
    assert binding is not None
    bound = evidence.body[REPORT_DATA[evidence.kind]] == binding.report_data
    outcome = Outcome.PASS if bound else Outcome.FAIL
    return Examination(
        checks=(Check("stub.binding", outcome, ""),), facts={"measurement": MEASUREMENT.hex()}, identity=""
    )


class AnyKind(Policy, frozen=True, kw_only=True):
    """Sends every kind to the examiner."""

    def alternatives(self, kind: EvidenceKind) -> tuple[Any, ...]:
        return (SimulatedPolicy(measurements=(MEASUREMENT.hex(),)),)


def judge(presented: PresentedEvidence, accept: Conventions, at: datetime = AT, hours: int = 24) -> PeerVerdict:
    policy = CertificatePolicy(accept=accept, max_lifetime_hours=hours)
    return verify_foreign(presented, AnyKind(), certificate_policy=policy, at=at, examine=binding_alone)


def failed_checks(peer: PeerVerdict) -> list[str]:
    return [check.name for check in peer.verdict.failures]


def dice_evidence(spki: bytes, *, algorithm: int = 1, name: str = "sha256", **more: bytes) -> bytes:
    key_hash = cbor2.dumps([algorithm, hashlib.new(name, spki).digest()])
    claims = cbor2.dumps({"pubkey-hash": key_hash, **more})
    return bytes(cbor2.dumps(cbor2.CBORTag(60000, [sgx_quote(hashlib.sha256(claims).digest()), claims])))


def enarx_snp(report: bytes) -> bytes:
    vcek = core.Sequence(contents=b"").dump()
    endorsements = core.Sequence(contents=vcek).dump()
    return bytes(core.Sequence(contents=endorsements + core.OctetString(report).dump()).dump())


def enarx_sgx(quote: bytes) -> bytes:
    return bytes(core.Sequence(contents=core.OctetString(quote).dump()).dump())


NONCE = b"the nonce in the server name"
GOOD: dict[Convention, tuple[Any, dict[str, bytes]]] = {
    Convention.TCG_DICE: (KEY, {"2.23.133.5.4.9": dice_evidence(SPKI, nonce=b"n")}),
    Convention.GRAMINE: (KEY, {"0.6.9.42.840.113741.1337.6": sgx_quote(hashlib.sha256(SPKI).digest())}),
    Convention.INTEL_SDK: (
        KEY,
        {
            "1.2.840.113741.1.13.1": sgx_quote(
                hashlib.sha256(cbor2.dumps({"pubkey-hash": cbor2.dumps([1, hashlib.sha256(SPKI).digest()])})).digest()
            )
        },
    ),
    Convention.ENARX: (
        KEY_384,
        {"1.3.6.1.4.1.58270.1.3": enarx_snp(snp_report(hashlib.sha384(spki_of(KEY_384)).digest()))},
    ),
    Convention.COCOS_LEGACY: (KEY, {"2.99999.1.2": tdx_quote(hashlib.sha3_512(SPKI + NONCE).digest())}),
    Convention.DSTACK: (
        KEY,
        {
            "1.3.6.1.4.1.62397.1.1": core.OctetString(tdx_quote(hashlib.sha512(b"ratls-cert:" + SPKI).digest())).dump(),
            "1.3.6.1.4.1.62397.1.2": core.OctetString(b"[]").dump(),
        },
    ),
    Convention.A3S: (
        KEY,
        {"1.3.6.1.4.1.58270.1.1": snp_report(hashlib.sha256(SPKI).digest()), "1.3.6.1.4.1.58270.1.2": b"{}"},
    ),
}
FOREIGN = sorted(GOOD)


def read(convention: Convention, certificate: bytes) -> PresentedEvidence:
    return read_ratls(certificate, accept=frozenset({convention}), nonce=NONCE)
