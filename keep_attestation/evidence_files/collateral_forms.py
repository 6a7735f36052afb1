"""Intel's collateral in the forms that tools store it in, put into the one that verifiers read.

Known are dcap-qvl's `QuoteCollateralV3`, the fields of Intel's `sgx_ql_qve_collateral_t` with whole replies of the PCS
in them, both in any spelling of their names, and the replies themselves in a folder; chains with their root first or
last, and percent-encoded as in the PCS's headers. What Intel signed stays as it is.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote

import msgspec

from keep_attestation.certificates import Certificate, read_crl
from keep_attestation.errors import MalformedEvidenceError
from keep_attestation.intel.collateral import CollateralBundle, read_pem_chain
from keep_attestation.intel.quote import CertificationDataType, parse_quote

_DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_FIELDS = {name.replace("_", ""): name for name in CollateralBundle.__struct_fields__}
_SIGNED = {"tcb_info": "tcbInfo", "qe_identity": "enclaveIdentity"}
"""Fields with JSON that Intel signed, and what it is called in the PCS's replies."""
_TCB_SIGNER = "Intel SGX TCB Signing"


def has_collateral(document: Mapping[str, Any]) -> bool:
    """Whether parsed JSON is a bundle in one of the forms."""
    return {"tcb_info", "qe_identity"} <= {_field(name) for name in document}


def in_one_form(data: bytes) -> bytes:
    """The bundle in `data` as `CollateralBundle`; `data` itself where it is, or where its form is not known."""
    try:
        raw = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        if raw.keys() >= set(CollateralBundle.__struct_fields__) and _is_plain(data):
            return data
        return msgspec.json.encode(CollateralBundle(**_members(raw)))
    except (*_DECODE_ERRORS, TypeError, ValueError):
        return data


def signed_part(data: bytes) -> tuple[str, str, str] | None:
    """Field, signed text and signature of a reply of the PCS (`/tcb`, `/qe/identity`); None for anything else."""
    try:
        reply = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        for field, name in _SIGNED.items():
            if reply.keys() == {name, "signature"}:
                return field, bytes(reply[name]).decode(), msgspec.json.decode(reply["signature"], type=str)
    except _DECODE_ERRORS:
        pass
    return None


def assemble(
    quote: bytes, replies: Iterable[bytes], crls: Iterable[bytes], certificates: Iterable[Certificate]
) -> bytes | None:
    """A bundle of the PCS's replies, CRLs and certificates for `quote`; None when some part is missing."""
    try:
        parsed = parse_quote(quote)
        if parsed.certification_data_type is not CertificationDataType.PCK_CHAIN:
            return None
        of_quote = read_pem_chain(parsed.certification_data)
        lists = [(read_crl(der), der) for der in crls]
    except MalformedEvidenceError:
        return None
    known = {each.subject: each for each in (*of_quote, *certificates)}
    signed = {part[0]: part[1:] for part in map(signed_part, replies) if part is not None}
    root = next((each for each in known.values() if each.subject == each.issuer), None)
    signer = next((each for each in known.values() if each.subject_name == _TCB_SIGNER), None)
    if root is None or signer is None or signed.keys() != _SIGNED.keys():
        return None
    of_root = [der for crl, der in lists if crl.issuer == root.subject]
    of_pck = [(der, known[crl.issuer]) for crl, der in lists if crl.issuer == of_quote[0].issuer]
    if not of_root or not of_pck:
        return None
    signing_chain = _pem(signer) + _pem(root)
    return msgspec.json.encode(
        CollateralBundle(
            pck_crl_issuer_chain=_pem(of_pck[0][1]) + _pem(root),
            root_ca_crl=of_root[0].hex(),
            pck_crl=of_pck[0][0].hex(),
            tcb_info_issuer_chain=signing_chain,
            tcb_info=signed["tcb_info"][0],
            tcb_info_signature=signed["tcb_info"][1],
            qe_identity_issuer_chain=signing_chain,
            qe_identity=signed["qe_identity"][0],
            qe_identity_signature=signed["qe_identity"][1],
        )
    )


def _is_plain(data: bytes) -> bool:
    try:
        bundle = msgspec.json.decode(data, type=CollateralBundle)
    except msgspec.ValidationError:
        return False
    texts = (bundle.root_ca_crl, bundle.pck_crl, bundle.tcb_info_signature, bundle.qe_identity_signature)
    chains = (bundle.pck_crl_issuer_chain, bundle.tcb_info_issuer_chain, bundle.qe_identity_issuer_chain)
    return (
        signed_part(bundle.tcb_info.encode()) is None
        and all(_is_hex(text) for text in texts)
        and all(_chain(text) == text for text in chains)
    )


def _members(raw: Mapping[str, msgspec.Raw]) -> dict[str, str]:
    members: dict[str, str] = {}
    for name, value in raw.items():
        field = _field(name)
        if field in _SIGNED:
            # JSON in a string, or as a part of this document: its bytes are what is signed.
            text = msgspec.json.decode(value, type=str) if bytes(value).startswith(b'"') else bytes(value).decode()
            reply = signed_part(text.encode())
            members[field] = text if reply is None else reply[1]
            if reply is not None:
                members.setdefault(f"{field}_signature", reply[2])
        elif field is not None and field.endswith("_chain"):
            members[field] = _chain(msgspec.json.decode(value, type=str))
        elif field is not None:
            members[field] = _octets(msgspec.json.decode(value)).hex()
    return members


def _chain(text: str) -> str:
    """PEM with the signer first; as it came where it cannot be read."""
    text = unquote(text) if text.startswith("-----BEGIN%20") else text
    try:
        first, *others = read_pem_chain(text.encode(errors="replace"))
    except MalformedEvidenceError:
        return text
    if not others or first.subject != first.issuer:
        return text
    return "".join(map(_pem, (*reversed(others), first)))


def _field(name: str) -> str | None:
    plain = name.replace("_", "").replace("-", "").lower()
    return _FIELDS.get({"enclaveidentity": "qeidentity"}.get(plain, plain))


def _octets(value: Any) -> bytes:
    """CRLs and signatures: hex, base64, PEM, or a list of numbers."""
    if isinstance(value, list):
        return bytes(value)
    if not isinstance(value, str):
        raise TypeError("neither text nor a list of bytes")
    if _is_hex(value):
        return bytes.fromhex(value)
    lines = [line for line in value.splitlines() if not line.startswith("-----")]
    try:
        return base64.b64decode("".join(lines), validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None


def _is_hex(text: str) -> bool:
    try:
        bytes.fromhex(text)
    except ValueError:
        return False
    return True


def _pem(certificate: Certificate) -> str:
    body = base64.encodebytes(certificate.der).decode()
    return f"-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n"
