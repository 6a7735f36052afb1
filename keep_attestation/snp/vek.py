"""Versioned endorsement keys: what AMD writes into VCEK and VLEK certificates (AMD 57230, "VCEK Certificate")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from asn1crypto import core

from keep_attestation.certificates import Certificate, integer, octet_string
from keep_attestation.errors import MalformedCertificateError, MalformedEvidenceError
from keep_attestation.snp.products import Product, TcbVersion

_ARC = "1.3.6.1.4.1.3704.1"
_STRUCT_VERSION = f"{_ARC}.1"
_PRODUCT_NAME = f"{_ARC}.2"
_BL, _TEE, _SNP, _UCODE, _FMC = (f"{_ARC}.3.{part}" for part in (1, 2, 3, 8, 9))
_SPARE = tuple(f"{_ARC}.3.{part}" for part in (4, 5, 6, 7))
_HARDWARE_ID = f"{_ARC}.4"
_CSP_ID = f"{_ARC}.5"

_SUPPORTED_STRUCT_VERSIONS = (0, 1)
_HARDWARE_ID_SIZES = (8, 64)

_PRODUCT_NAMES = {"Milan": Product.MILAN, "Turin": Product.TURIN} | dict.fromkeys(
    ("Genoa", "Bergamo", "Siena"), Product.GENOA
)


class EndorsementKey(StrEnum):
    """Whose key signed: the chip's, or one that AMD made for a cloud provider and that many chips share."""

    VCEK = "VCEK"
    VLEK = "VLEK"


@dataclass(frozen=True, slots=True)
class Vek:
    """What a VCEK or VLEK certificate says."""

    key: EndorsementKey
    product_name: str
    """As written, e.g. `Milan-B0`."""
    product: Product
    tcb: TcbVersion
    """The TCB version that the key was derived for."""
    hardware_id: bytes | None
    """VCEK: the chip, 64 bytes, of Turin 8."""
    csp_id: str | None
    """VLEK: the cloud provider."""


def endorsement_key_of(certificate: Certificate) -> EndorsementKey | None:
    """Which kind of endorsement key `certificate` says it is by its subject; None if it is neither."""
    if certificate.is_ca:
        return None
    return {"SEV-VCEK": EndorsementKey.VCEK, "SEV-VLEK": EndorsementKey.VLEK}.get(certificate.subject_name)


def read_vek(certificate: Certificate) -> Vek:
    """AMD's extensions of `certificate`, a VCEK's or VLEK's.

    Raises `MalformedEvidenceError` when they are missing, not of their types, or contradict each other.
    """
    key = endorsement_key_of(certificate)
    if key is None:
        raise MalformedCertificateError(f"{certificate.subject_name!r} is neither SEV-VCEK nor SEV-VLEK")
    extensions = certificate.extensions
    struct_version = _integer(extensions, _STRUCT_VERSION, "structVersion")
    if struct_version not in _SUPPORTED_STRUCT_VERSIONS:
        raise MalformedCertificateError(f"the {key}'s structVersion is {struct_version}; 0 and 1 are known")
    product_name = _text(extensions, _PRODUCT_NAME, "productName")
    product = _PRODUCT_NAMES.get(product_name.partition("-")[0])
    if product is None:
        raise MalformedCertificateError(f"the {key} is for the unknown product {product_name!r}")
    is_vcek = key is EndorsementKey.VCEK
    if (_HARDWARE_ID in extensions) is not is_vcek or (_CSP_ID in extensions) is is_vcek:
        raise MalformedCertificateError(
            f"the {key} must name a {'chip' if is_vcek else 'cloud provider'}, and only that"
        )
    return Vek(
        key=key,
        product_name=product_name,
        product=product,
        tcb=_tcb(extensions, product),
        hardware_id=_hardware_id(extensions[_HARDWARE_ID], product) if is_vcek else None,
        csp_id=None if is_vcek else _text(extensions, _CSP_ID, "cspID"),
    )


def _tcb(extensions: Mapping[str, bytes], product: Product) -> TcbVersion:
    if (_FMC in extensions) is not (product is Product.TURIN):
        raise MalformedCertificateError(f"an SPL of the FMC is for Turin alone; the key is for {product}")
    if any(_integer(extensions, oid, f"spare SPL {oid}") for oid in _SPARE if oid in extensions):
        raise MalformedCertificateError("an endorsement key has a spare SPL that is not zero")
    return TcbVersion(
        bl=_spl(extensions, _BL, "blSPL"),
        tee=_spl(extensions, _TEE, "teeSPL"),
        snp=_spl(extensions, _SNP, "snpSPL"),
        ucode=_spl(extensions, _UCODE, "ucodeSPL"),
        fmc=_spl(extensions, _FMC, "fmcSPL") if product is Product.TURIN else None,
    )


def _hardware_id(content: bytes, product: Product) -> bytes:
    # AMD's text wraps the id in an OCTET STRING of its own, the certificates that AMD issues do not.
    if len(content) not in _HARDWARE_ID_SIZES:
        content = octet_string(content)
    expected = 8 if product is Product.TURIN else 64
    if len(content) != expected:
        raise MalformedCertificateError(f"a hwID of {product} has {expected} bytes, {len(content)} came")
    return content


def _spl(extensions: Mapping[str, bytes], oid: str, name: str) -> int:
    value = _integer(extensions, oid, name)
    if not 0 <= value <= 255:
        raise MalformedCertificateError(f"an endorsement key's {name} is {value}; a level is one byte")
    return value


def _integer(extensions: Mapping[str, bytes], oid: str, name: str) -> int:
    return integer(_content(extensions, oid, name))


def _text(extensions: Mapping[str, bytes], oid: str, name: str) -> str:
    try:
        value = core.IA5String.load(_content(extensions, oid, name), strict=True).native
    except (ValueError, TypeError) as error:
        raise MalformedCertificateError(f"an endorsement key's {name} is no IA5String: {error}") from None
    if not isinstance(value, str) or not value.isprintable():
        raise MalformedCertificateError(f"an endorsement key's {name} is not printable")
    return value


def _content(extensions: Mapping[str, bytes], oid: str, name: str) -> bytes:
    if oid not in extensions:
        raise MalformedEvidenceError(f"an endorsement key has no {name} ({oid})")
    return extensions[oid]
