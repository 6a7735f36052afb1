"""PCK certificates: the platform's identity and TCB as Intel certified them, and their chain to the root."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from asn1crypto import core

from keep_attestation.certificates import Certificate, build_chain, chain_problem, issued_by
from keep_attestation.errors import MalformedCertificateError
from keep_attestation.intel.anchors import TrustAnchors

_SGX_EXTENSION = "1.2.840.113741.1.13.1"
_PPID = f"{_SGX_EXTENSION}.1"
_TCB = f"{_SGX_EXTENSION}.2"
_PCE_SVN = f"{_TCB}.17"
_CPU_SVN = f"{_TCB}.18"
_PCE_ID = f"{_SGX_EXTENSION}.3"
_FMSPC = f"{_SGX_EXTENSION}.4"
_SGX_TYPE = f"{_SGX_EXTENSION}.5"
_PLATFORM_INSTANCE = f"{_SGX_EXTENSION}.6"
_CONFIGURATION = f"{_SGX_EXTENSION}.7"
_CONFIGURATION_FLAGS = {".1": "dynamic_platform", ".2": "cached_keys", ".3": "smt_enabled"}


class _Entry(core.Sequence):  # type: ignore[misc]
    _fields = [("name", core.ObjectIdentifier), ("value", core.Any)]  # noqa: RUF012 - asn1crypto's way of declaring


class _Entries(core.SequenceOf):  # type: ignore[misc]
    _child_spec = _Entry


@dataclass(frozen=True, slots=True)
class PckExtension:
    """Intel's extension (PCK Certificate and CRL Profile 1.5, section 1.3.5)."""

    ppid: bytes
    """Identifies the platform, for its whole life unless it is reset to factory state."""
    cpu_svn: bytes
    pce_svn: int
    pce_id: bytes
    fmspc: bytes
    """Family, model, stepping, platform type: selects the collateral."""
    sgx_type: int
    """0 standard, 1 scalable, 2 scalable with integrity."""
    platform_instance_id: bytes | None
    configuration: Mapping[str, bool]
    """`dynamic_platform`, `cached_keys`, `smt_enabled`, as far as the certificate says; only platform CAs do."""


def parse_pck_extension(certificate: Certificate) -> PckExtension:
    """The extension of `certificate`. Raises `MalformedCertificateError`."""
    content = certificate.extensions.get(_SGX_EXTENSION)
    if content is None:
        raise MalformedCertificateError(
            f"{certificate.subject_name!r} is no PCK certificate: it lacks Intel's extension"
        )
    try:
        return _decode(content)
    except MalformedCertificateError:
        raise
    # asn1crypto raises whatever its parts raise, at the first look at each of them.
    except Exception as error:
        raise MalformedCertificateError(f"Intel's extension of a PCK certificate is not well-formed: {error}") from None


def _decode(content: bytes) -> PckExtension:
    entries = _read(_Entries.load(content, strict=True))
    tcb = _read(entries[_TCB].parse(_Entries))
    configuration = _read(entries[_CONFIGURATION].parse(_Entries)) if _CONFIGURATION in entries else {}
    return PckExtension(
        ppid=_octets(entries, _PPID, 16),
        cpu_svn=_octets(tcb, _CPU_SVN, 16),
        pce_svn=int(tcb[_PCE_SVN].parse(core.Integer).native),
        pce_id=_octets(entries, _PCE_ID, 2),
        fmspc=_octets(entries, _FMSPC, 6),
        # asn1crypto gives no number for an ENUMERATED whose names it does not know.
        sgx_type=int.from_bytes(entries[_SGX_TYPE].parse(core.Enumerated).contents, "big"),
        platform_instance_id=_octets(entries, _PLATFORM_INSTANCE, 16) if _PLATFORM_INSTANCE in entries else None,
        configuration={
            name: bool(configuration[_CONFIGURATION + suffix].parse(core.Boolean).native)
            for suffix, name in _CONFIGURATION_FLAGS.items()
            if _CONFIGURATION + suffix in configuration
        },
    )


def _read(sequence: Any) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for entry in sequence:
        name = entry["name"].dotted
        if name in entries:
            raise MalformedCertificateError(f"Intel's extension of a PCK certificate has {name} twice")
        entries[name] = entry["value"]
    return entries


def _octets(entries: Mapping[str, Any], name: str, size: int) -> bytes:
    value = bytes(entries[name].parse(core.OctetString).native)
    if len(value) != size:
        raise MalformedCertificateError(f"Intel's extension of a PCK certificate: {name} has {len(value)} bytes")
    return value


def anchored_chain(certificates: tuple[Certificate, ...], anchors: TrustAnchors) -> tuple[Certificate, ...] | str:
    """The chain from the first certificate to a pinned root among the rest, leaf first; or why there is none."""
    roots = [certificate for certificate in certificates if certificate.issuer == certificate.subject]
    if not roots:
        return "the quote's chain has no root certificate"
    trusted = next((root for root in roots if root.spki_sha256 in anchors), None)
    if trusted is None:
        return (
            f"untrusted root: {roots[0].subject_name!r} with key {roots[0].spki_sha256} (SHA-256 of its SPKI) is none "
            "of the pinned ones"
        )
    chain = build_chain(certificates[0], certificates[1:], trusted)
    if chain[-1].der != trusted.der:
        return (
            f"the chain ends at {chain[-1].subject_name!r}, whose issuer {chain[-1].issuer_name!r} is not in the quote"
        )
    return chain


def pck_chain_problem(chain: tuple[Certificate, ...], at: datetime) -> str | None:
    """Why the PCK chain does not hold at `at`, or None: signatures, validity, rights, and the leaf is no CA."""
    if chain[0].is_ca:
        # A CA's own key must not sign QE reports (dcap-qvl's case "ca used as end entity").
        return f"{chain[0].subject_name!r} is a CA, not a PCK certificate"
    if len(chain) < 3:
        return f"the chain has {len(chain)} certificates; PCK, PCK CA and root are expected"
    return chain_problem(chain, at) or issued_by(chain[-1], chain[-1])
