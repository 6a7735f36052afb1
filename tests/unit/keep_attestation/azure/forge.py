"""An Azure confidential VM of our own: a fake AMD chip vouches for a paravisor, whose virtual TPM signs."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa

from keep_attestation.azure.hcl import HARDWARE_REPORT_SIZE
from keep_attestation.evidence import Endorsements, Evidence
from keep_attestation.snp.anchors import Anchors
from keep_attestation.tpm.structures import SigningScheme
from keep_protocol.evidence import EvidenceKind
from keep_protocol.tpm_evidence import encode_azure_bundle
from tests.unit.keep_attestation.snp.forge import FakeAmd, FakeChip, fake_amd
from tests.unit.keep_attestation.tpm.forge import NONCE, PCRS, SHA256, ForgedTpm

SETTINGS = {"console-enabled": True, "secure-boot": True, "tpm-enabled": True, "vmUniqueId": "26F8BC30"}


def jwk(key: rsa.RSAPrivateKey, kid: str = "HCLAkPub") -> dict[str, Any]:
    modulus = key.public_key().public_numbers().n.to_bytes(256, "big")
    encoded = base64.urlsafe_b64encode(modulus).rstrip(b"=").decode()
    return {"kid": kid, "key_ops": ["sign"], "kty": "RSA", "e": "AQAB", "n": encoded}


def runtime_data(key: rsa.RSAPrivateKey, **changes: Any) -> bytes:
    """The JSON that the paravisor writes; `...` leaves a member out."""
    members = {"keys": [jwk(key)], "vm-configuration": SETTINGS, "user-data": "00" * 64} | changes
    return json.dumps({name: value for name, value in members.items() if value is not ...}).encode()


def hcl_report(
    hardware: bytes,
    runtime: bytes,
    *,
    magic: bytes = b"HCLA",
    version: int = 2,
    report_type: int = 2,
    hash_type: int = 1,
    size: int | None = None,
    padding: bytes = bytes(100),
) -> bytes:
    """The paravisor's report around the hardware's."""

    def u32(*values: int) -> bytes:
        return b"".join(value.to_bytes(4, "little") for value in values)

    whole = 32 + HARDWARE_REPORT_SIZE + 20 + len(runtime) if size is None else size
    header = magic + u32(version, whole, 2, 0) + bytes(12)
    inner = u32(20 + len(runtime), 1, report_type, hash_type, len(runtime))
    return header + hardware.ljust(HARDWARE_REPORT_SIZE, b"\x00") + inner + runtime + padding


@dataclass
class AzureVm:
    """A VM on an SNP machine of a fake AMD."""

    amd: FakeAmd = field(default_factory=fake_amd)
    tpm: ForgedTpm = field(
        default_factory=lambda: ForgedTpm(rsa.generate_private_key(65537, 2048), SigningScheme.RSASSA)
    )
    chip: FakeChip = field(init=False)

    def __post_init__(self) -> None:
        self.chip = self.amd.vcek()

    @property
    def anchors(self) -> Anchors:
        return self.amd.anchors

    @property
    def key(self) -> rsa.RSAPrivateKey:
        assert isinstance(self.tpm.key, rsa.RSAPrivateKey)
        return self.tpm.key

    def report(self, runtime: bytes | None = None, **fields: Any) -> bytes:
        """An HCL report of which the hardware's is signed over the hash of `runtime`."""
        runtime = runtime_data(self.key) if runtime is None else runtime
        data = SHA256.digest(runtime) + bytes(32)
        return hcl_report(self.chip.report(**({"report_data": data} | fields)), runtime)

    def evidence(
        self, *, report: bytes | None = None, kind: EvidenceKind = EvidenceKind.AZURE_SNP, **changes: Any
    ) -> Evidence:
        """Evidence over PCRs 0, 4 and 7; `changes` are of `encode_azure_bundle`."""
        message = self.tpm.attest({SHA256: PCRS}, NONCE)
        parts: dict[str, Any] = {
            "quote": message,
            "signature": self.tpm.sign(message),
            "pcrs": {SHA256: PCRS},
            "hcl_report": self.report() if report is None else report,
        }
        body = encode_azure_bundle(**(parts | changes))
        return Evidence(kind=kind, body=body, endorsements=Endorsements(certificates=(self.chip.certificate,)))
