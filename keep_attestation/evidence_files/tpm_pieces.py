"""Makes one body of evidence from the files that TPM tools write for one quote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keep_attestation.certificates import Certificate
from keep_attestation.errors import MalformedEvidenceError
from keep_attestation.evidence import Endorsements, Evidence
from keep_attestation.evidence_files.companions import Companion, certificates_of, select
from keep_attestation.evidence_files.content import Content
from keep_attestation.evidence_files.pcr_values import covered_by, read_pcr_values
from keep_attestation.tpm.bundle import bundle_from_parts
from keep_attestation.tpm.structures import TpmPublicKey, parse_attest, parse_public
from keep_protocol.evidence import EvidenceKind
from keep_protocol.tpm_evidence import encode_azure_bundle

_RSASSA_SHA256 = bytes.fromhex("0014000b")
_HARDWARE_REPORT = slice(32, 32 + 1184)
"""Of Azure's report: behind its header."""


@dataclass(frozen=True, slots=True)
class Assembled:
    """Evidence made of several files."""

    evidence: Evidence
    used: tuple[Path, ...]


def assemble_tpm(pieces: Sequence[Companion]) -> Assembled:
    """A TPM's quote. Raises `MalformedEvidenceError`, which names the piece that is missing."""
    quote = _one(pieces, Content.TPM_QUOTE)
    signature = _one(pieces, Content.TPM_SIGNATURE, bare=True)
    values = _one(pieces, Content.PCR_VALUES)
    # Some tools write the key alone. The verifier says what is missing then, after all that can be checked.
    as_tpm_has_it = any(piece.part.content is Content.TPM_KEY for piece in pieces)
    key = _one(pieces, Content.TPM_KEY if as_tpm_has_it else Content.PUBLIC_KEY)
    certificates = [(each, piece) for piece in pieces for each in certificates_of(piece.part)]
    public = parse_public(key.part.data).key if as_tpm_has_it else None
    of_key = [pair for pair in certificates if public is not None and _is_for(pair[0], public)]
    of_ek = [pair for pair in certificates if not pair[0].is_ca and pair not in of_key]
    log = _optional(pieces, Content.EVENT_LOG)
    crls = [piece for piece in pieces if piece.part.content is Content.CRL]
    evidence = Evidence(
        kind=EvidenceKind.TPM,
        body=bundle_from_parts(
            quote.part.data,
            _tagged(signature),
            key.part.data,
            covered_by(read_pcr_values(values.part.data), parse_attest(quote.part.data).selection),
            ak_certificate=of_key[0][0].der if of_key else None,
            ek_certificate=of_ek[0][0].der if of_ek else None,
        ),
        endorsements=Endorsements(
            certificates=tuple(dict.fromkeys(each.der for each, _ in certificates if each.is_ca)),
            crls=tuple(crl.part.data for crl in crls),
        ),
        log=None if log is None else log.part.data,
    )
    used = (quote, signature, key, values, *(piece for _, piece in certificates), *crls, *([log] if log else ()))
    return Assembled(evidence, tuple(dict.fromkeys(piece.path for piece in used)))


def assemble_azure(pieces: Sequence[Companion], at: datetime) -> Assembled:
    """Azure's: the host compatibility layer's report, its TPM's quote and, on TDX, the TD quote.

    Raises `MalformedEvidenceError`, which names the piece that is missing.
    """
    report, quote, values = (
        _one(pieces, content) for content in (Content.HCL_REPORT, Content.TPM_QUOTE, Content.PCR_VALUES)
    )
    signature = _one(pieces, Content.TPM_SIGNATURE, bare=True)
    kind = report.part.kind
    td_quote = _one(pieces, Content.TDX_QUOTE) if kind is EvidenceKind.AZURE_TDX else None
    log = _optional(pieces, Content.EVENT_LOG)
    if td_quote is None:
        selection = select(EvidenceKind.SNP, report.part.data[_HARDWARE_REPORT], pieces, at)
    else:
        selection = select(EvidenceKind.TDX, td_quote.part.data, pieces, at)
    evidence = Evidence(
        kind=kind,
        body=encode_azure_bundle(
            quote=quote.part.data,
            signature=_tagged(signature),
            pcrs=covered_by(read_pcr_values(values.part.data), parse_attest(quote.part.data).selection),
            hcl_report=report.part.data,
            td_quote=None if td_quote is None else td_quote.part.data,
        ),
        endorsements=selection.endorsements,
        log=None if log is None else log.part.data,
    )
    used = (report, quote, signature, values, *([td_quote] if td_quote else ()), *([log] if log else ()))
    return Assembled(evidence, (*(piece.path for piece in used), *selection.used))


def _one(pieces: Sequence[Companion], content: Content, *, bare: bool = False) -> Companion:
    wanted = (content, Content.RAW_SIGNATURE) if bare else (content,)
    found = {piece.part.data: piece for piece in pieces if piece.part.content in wanted}
    if not found:
        raise MalformedEvidenceError(f"{content} is missing beside the TPM quote")
    if len(found) > 1:
        names = ", ".join(piece.path.name for piece in found.values())
        raise MalformedEvidenceError(f"several files are {content}: {names}; keep the files of one quote in a folder")
    return next(iter(found.values()))


def _optional(pieces: Sequence[Companion], content: Content) -> Companion | None:
    return _one(pieces, content) if any(piece.part.content is content for piece in pieces) else None


def _tagged(signature: Companion) -> bytes:
    """TPMT_SIGNATURE; a bare RSA signature, as Azure's tools write it, is by their keys' one scheme."""
    data = signature.part.data
    if signature.part.content is Content.TPM_SIGNATURE:
        return data
    return _RSASSA_SHA256 + len(data).to_bytes(2, "big") + data


def _is_for(certificate: Certificate, key: TpmPublicKey) -> bool:
    try:
        certified = certificate.public_key()
    except MalformedEvidenceError:
        return False
    return certified.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == key.public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )
