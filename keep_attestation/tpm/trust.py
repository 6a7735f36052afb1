"""Whose a TPM's certificates are: from an attestation or endorsement key's certificate to a root."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from asn1crypto import core
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keep_attestation.certificates import Certificate, build_chain, chain_problem
from keep_attestation.errors import MalformedCertificateError
from keep_attestation.revocation import revocation_problem
from keep_attestation.tpm.structures import TpmPublicKey
from keep_attestation.verdict import Checks

PRODUCTION_ANCHORS: Mapping[str, str] = {
    # "tpm_ek_v1_cloud_host_root", 2018 to 2118, from https://pki.goog/cloud_integrity/tpm_ek_root_1.cer
    "9bd5285f8fb18502a7947e621ffd470266f49fcd3b73e19a190f690ad32a7caf": "google",
    # "EK/AK CA Root", 2022 to 2122, from https://privateca-content-*.storage.googleapis.com as go-tpm-tools embeds it
    "594759594b9b61524f6c8ef668f7177f7b9066bc0674f2f49fe9e052be78beb2": "google",
}
"""Names of roots by the SHA-256 of their certificates. Google vouches for the vTPMs of Compute Engine."""

_GOOGLE_INSTANCE = "1.3.6.1.4.1.11129.2.1.21"


@dataclass(frozen=True, slots=True)
class Trust:
    """What a certificate rests on."""

    root: str
    """A pinned root's name; of another root the SHA-256 of its certificate, in hex."""
    chain: tuple[Certificate, ...]
    """Leaf first."""


def find_trust(
    checks: Checks,
    check_name: str,
    leaf: Certificate,
    candidates: Iterable[Certificate],
    at: datetime,
    anchors: Mapping[str, str],
) -> Trust | None:
    """The root that `leaf` leads to through `candidates`, pinned or not; None, and a failed check, if there is none.

    Whether the root is acceptable is the policy's to say: it names the pinned ones, and others by their hash.
    """
    candidates = tuple(candidates)
    pinned = [candidate for candidate in candidates if candidate.sha256 in anchors]
    self_signed = [candidate for candidate in candidates if candidate.subject == candidate.issuer]
    for root in (*pinned, *self_signed):
        chain = build_chain(leaf, candidates, root)
        if chain[-1].der != root.der:
            continue
        if problem := chain_problem(chain, at):
            checks.fail(check_name, problem)
            return None
        name = anchors.get(root.sha256)
        if name is None:
            checks.note(check_name, f"it leads to {root.subject_name!r} ({root.sha256}), which is no pinned root")
            return Trust(root.sha256, chain)
        checks.ok(check_name, f"{len(chain)} certificates lead to the pinned root {root.subject_name!r} of {name}")
        return Trust(name, chain)
    checks.fail(
        check_name,
        f"no root among the certificates given issued it (its issuer is {leaf.issuer_name!r}): "
        "give intermediates and root with the evidence",
    )
    return None


def check_revocation(checks: Checks, trusts: Iterable[Trust], crls: Iterable[bytes], at: datetime) -> bool:
    """Whether no CRL forbids any of the chains; one that belongs to none of them forbids too."""
    chains = [trust.chain for trust in trusts]
    crls = tuple(crls)
    if not crls:
        checks.note("tpm.revocation", "no CRL was given")
        return True
    for crl in crls:
        problems = [revocation_problem(chain, (crl,), at) for chain in chains] or [revocation_problem((), (crl,), at)]
        if None not in problems:
            checks.fail("tpm.revocation", str(problems[0]))
            return False
    checks.ok("tpm.revocation", f"none of {len(crls)} CRLs forbids a certificate")
    return True


def same_key(certificate: Certificate, key: TpmPublicKey) -> bool:
    """Whether the certificate is for `key`, however either is encoded."""
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    certified = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return certified == spki


class _GoogleInstance(core.Sequence):  # type: ignore[misc]  # asn1crypto has no types
    """As far as it is read; security properties follow."""

    _fields = [  # noqa: RUF012
        ("zone", core.UTF8String),
        ("project_number", core.Integer),
        ("project", core.UTF8String),
        ("instance_number", core.Integer),
        ("instance", core.UTF8String),
        ("security", core.Any, {"optional": True}),
    ]


def google_facts(certificate: Certificate) -> dict[str, Any]:
    """Which Compute Engine instance Google certified the key for; empty where it does not say.

    Source: go-tpm-tools, server/verify.go (GCEInstanceInfo). Raises `MalformedCertificateError`.
    """
    encoded = certificate.extensions.get(_GOOGLE_INSTANCE)
    if encoded is None:
        return {}
    try:
        instance = _GoogleInstance.load(encoded, strict=True)
        return {f"google_{name}": instance[name].native for name in ("zone", "project", "instance", "instance_number")}
    # asn1crypto raises whatever its parts raise.
    except Exception as error:
        raise MalformedCertificateError(f"a certificate's Compute Engine extension is not readable: {error}") from None
