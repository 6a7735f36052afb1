"""What makes a key an attestation key: that it can sign nothing but what its own TPM wrote."""

from __future__ import annotations

from keep_attestation.event_log.event import HashAlgorithm
from keep_attestation.tpm.structures import ObjectAttribute, Public, SigningScheme

REQUIRED = (
    ObjectAttribute.FIXED_TPM
    | ObjectAttribute.FIXED_PARENT
    | ObjectAttribute.SENSITIVE_DATA_ORIGIN
    | ObjectAttribute.RESTRICTED
    | ObjectAttribute.SIGN
)
"""Restricted: the TPM refuses to sign foreign data that begin as its own do. The others: the key was born in this TPM
and never leaves it (Part 1, 25.1)."""
FORBIDDEN = ObjectAttribute.DECRYPT | ObjectAttribute.X509_SIGN | ObjectAttribute.ENCRYPTED_DUPLICATION

_HIERARCHIES = {"owner": 0x4000_0001, "endorsement": 0x4000_000B, "platform": 0x4000_000C}


def attestation_key_problem(public: Public) -> str | None:
    """Why quotes by this key prove nothing, or None if they do."""
    if missing := REQUIRED & ~public.attributes:
        return f"the key is not {_names(missing)}: it may sign what no TPM wrote (attributes {public.attributes:#x})"
    if surplus := FORBIDDEN & public.attributes:
        return f"the key is {_names(surplus)}, which no attestation key is (attributes {public.attributes:#x})"
    if public.scheme not in tuple(SigningScheme):
        return "the key has no fixed signing scheme, which a restricted key must have"
    if public.scheme_hash not in tuple(HashAlgorithm) or public.scheme_hash == HashAlgorithm.SHA1:
        return f"the key signs with hash algorithm {public.scheme_hash:#06x}, which is not accepted"
    return None


def hierarchy_of_primary(public: Public, qualified_signer: bytes) -> str | None:
    """The hierarchy of which the signer is the primary key `public` (Part 1, 26.5); None if it is no primary key."""
    for name, handle in _HIERARCHIES.items():
        path = public.name_algorithm.digest(handle.to_bytes(4, "big") + public.name)
        if qualified_signer == public.name_algorithm.to_bytes(2, "big") + path:
            return name
    return None


def _names(attributes: ObjectAttribute) -> str:
    return ", ".join(str(member.name).lower().replace("_", " ") for member in attributes)
