"""Templates (TPMT_PUBLIC) of the keys that keeps use, and where a TPM keeps certificates for such keys."""

from __future__ import annotations

from app_loader.attesters.tpm_wire import Algorithm, ObjectAttribute, sized, u16, u32


def ecc_p256_template(attributes: ObjectAttribute, *, signing: bool, policy: bytes = b"", unique: bytes = b"") -> bytes:
    """TPMT_PUBLIC of a P-256 key: signing with ECDSA and SHA-256, or a parent (AES-128-CFB).

    `unique` (x and y, equally long) makes another key of the same template.
    """
    symmetric = u16(Algorithm.NULL) if signing else u16(Algorithm.AES) + u16(128) + u16(Algorithm.CFB)
    scheme = u16(Algorithm.ECDSA) + u16(Algorithm.SHA256) if signing else u16(Algorithm.NULL)
    half = len(unique) // 2
    return (
        u16(Algorithm.ECC)
        + u16(Algorithm.SHA256)
        + u32(attributes)
        + sized(policy)
        + symmetric
        + scheme
        + u16(0x0003)  # TPM_ECC_NIST_P256
        + u16(Algorithm.NULL)
        + sized(unique[:half])
        + sized(unique[half:])
    )


_KEY_OF_THIS_TPM = ObjectAttribute.FIXED_TPM | ObjectAttribute.FIXED_PARENT | ObjectAttribute.SENSITIVE_DATA_ORIGIN

ATTESTATION_KEY_TEMPLATE = ecc_p256_template(
    _KEY_OF_THIS_TPM | ObjectAttribute.USER_WITH_AUTH | ObjectAttribute.RESTRICTED | ObjectAttribute.SIGN, signing=True
)
"""A restricted key signs what the TPM itself wrote and nothing that looks like it: quotes by it can be believed."""

STORAGE_KEY_TEMPLATE = ecc_p256_template(
    _KEY_OF_THIS_TPM
    | ObjectAttribute.USER_WITH_AUTH
    | ObjectAttribute.NO_DICTIONARY_ATTACK
    | ObjectAttribute.RESTRICTED
    | ObjectAttribute.DECRYPT,
    signing=False,
)
"""The parent of sealed objects; the same on every start, so that they load again."""

_ENDORSEMENT_POLICY = bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
"""PolicySecret of the endorsement hierarchy (TCG EK Credential Profile 2.5, B.3)."""
_ENDORSEMENT_ATTRIBUTES = (
    _KEY_OF_THIS_TPM | ObjectAttribute.ADMIN_WITH_POLICY | ObjectAttribute.RESTRICTED | ObjectAttribute.DECRYPT
)

ENDORSEMENT_ECC_TEMPLATE = ecc_p256_template(
    _ENDORSEMENT_ATTRIBUTES, signing=False, policy=_ENDORSEMENT_POLICY, unique=bytes(64)
)
"""Template L-2 of the profile, of which the certificate is in `ENDORSEMENT_ECC_CERTIFICATE`."""
ENDORSEMENT_RSA_TEMPLATE = (
    u16(Algorithm.RSA)
    + u16(Algorithm.SHA256)
    + u32(_ENDORSEMENT_ATTRIBUTES)
    + sized(_ENDORSEMENT_POLICY)
    + u16(Algorithm.AES)
    + u16(128)
    + u16(Algorithm.CFB)
    + u16(Algorithm.NULL)
    + u16(2048)
    + u32(0)  # the exponent 65537
    + sized(bytes(256))
)
"""Template L-1, of which the certificate is in `ENDORSEMENT_RSA_CERTIFICATE`."""

ENDORSEMENT_RSA_CERTIFICATE = 0x01C0_0002
"""NV index (TCG EK Credential Profile 2.5, 2.2.1.4)."""
ENDORSEMENT_ECC_CERTIFICATE = 0x01C0_000A
"""NV index."""

GOOGLE_AK_CERTIFICATE = 0x01C1_0002
"""NV index where Google Compute Engine keeps the certificate of an ECC attestation key."""
GOOGLE_AK_TEMPLATE = 0x01C1_0003
"""NV index of the template that gives this key in the endorsement hierarchy."""
