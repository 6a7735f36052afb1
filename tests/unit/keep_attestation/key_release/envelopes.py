"""Makes what AWS KMS makes: CMS EnvelopedData for one RSA key, by the openssl command, in BER of indefinite length."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

OAEP = ("rsa_padding_mode:oaep", "rsa_oaep_md:sha256", "rsa_mgf1_md:sha256")


def envelop(
    folder: Path,
    public_key: rsa.RSAPublicKey,
    plaintext: bytes,
    *,
    cipher: str = "aes-256-cbc",
    options: tuple[str, ...] = OAEP,
    by_identifier: bool = True,
    recipients: int = 1,
) -> bytes:
    """The CMS as `CiphertextForRecipient` holds it. Other `options` make what KMS would not."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("the openssl command is not installed")
    command = [openssl, "cms", "-encrypt", "-binary", "-stream", "-outform", "DER", f"-{cipher}"]
    if by_identifier:
        command.append("-keyid")
    for number in range(recipients):
        path = folder / f"recipient-{number}.pem"
        path.write_bytes(_certificate(public_key, number))
        command += ["-recip", str(path)]
        for option in options:
            command += ["-keyopt", option]
    return subprocess.run(command, input=plaintext, capture_output=True, check=True).stdout


def _certificate(public_key: rsa.RSAPublicKey, serial: int) -> bytes:
    # openssl takes recipients as certificates only; who signed this one is of no interest to it.
    signer = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public_key)
        .serial_number(serial + 1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .sign(signer, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)
