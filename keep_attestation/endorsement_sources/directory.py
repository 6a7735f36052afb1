"""Endorsements from a folder of files, for verifiers that ask nobody."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec
from asn1crypto import pem

from keep_attestation.certificates import (
    Certificate,
    RevocationList,
    read_certificate,
    read_certificates,
    read_crl,
)
from keep_attestation.endorsement_sources.intel_pcs import platform_of
from keep_attestation.errors import EndorsementsError, MalformedCertificateError, MalformedEvidenceError
from keep_attestation.evidence import Endorsements, Evidence
from keep_attestation.snp.anchors import PRODUCTION_ANCHORS
from keep_attestation.snp.certificate_table import endorsements_of_thim
from keep_attestation.snp.products import decode_tcb
from keep_attestation.snp.report import Report, parse_report
from keep_attestation.snp.vek import endorsement_key_of, read_vek
from keep_protocol.evidence import EvidenceKind

MAX_FILE_SIZE = 4 * 1024 * 1024
MAX_FILES = 4096


class _Collateral(msgspec.Struct, frozen=True):
    tcb_info: str


class _TcbInfo(msgspec.Struct, frozen=True):
    fmspc: str
    issue_date: Annotated[datetime, msgspec.Meta(tz=True)] = msgspec.field(name="issueDate")
    id: str = "SGX"


@dataclass(frozen=True, slots=True)
class _Files:
    certificates: tuple[Certificate, ...]
    crls: tuple[tuple[bytes, RevocationList], ...]
    collateral: tuple[tuple[_TcbInfo, bytes], ...]


class DirectorySource:
    """Reads `folder` anew for each question: certificates (`.der`, `.cer`, `.crt`, `.pem`), CRLs (`.crl`), and JSON
    (`.json`): Azure's THIM replies and Intel's collateral as dcap-qvl writes it. Other files are passed over.

    SNP reports get the endorsement keys that fit chip and TCB, and the CRLs of their root; quotes get the newest
    collateral of their platform; every other kind of evidence gets all certificates and CRLs that are there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def endorsements_for(self, evidence: Evidence) -> Endorsements:
        """Raises `EndorsementsError`, which names a file that cannot be used."""
        files = self._read()
        match evidence.kind:
            case EvidenceKind.SNP:
                return _for_snp(evidence, files)
            case EvidenceKind.SGX | EvidenceKind.TDX:
                return _for_quote(evidence, files)
            case _:
                return Endorsements(
                    certificates=tuple(each.der for each in files.certificates),
                    crls=tuple(der for der, _ in files.crls),
                )

    def _read(self) -> _Files:
        certificates: list[Certificate] = []
        crls: list[tuple[bytes, RevocationList]] = []
        collateral: list[tuple[_TcbInfo, bytes]] = []
        for path in self._paths():
            try:
                data = _contents(path)
                match path.suffix.lower():
                    case ".json" if b'"vcekCert"' in data:
                        certificates += map(read_certificate, endorsements_of_thim(data).certificates)
                    case ".json" if b'"tcb_info_issuer_chain"' in data:
                        collateral.append((_tcb_info(data), data))
                    case ".crl":
                        crls.append(_crl(data))
                    case ".der" | ".cer" | ".crt" | ".pem":
                        _add_certificates_or_crl(data, certificates, crls)
            except (MalformedEvidenceError, OSError) as error:
                raise EndorsementsError(f"{path} cannot be used: {error}") from None
        return _Files(tuple(certificates), tuple(crls), tuple(collateral))

    def _paths(self) -> list[Path]:
        try:
            paths = sorted(path for path in self._folder.iterdir() if path.is_file() and not path.name.startswith("."))
        except OSError as error:
            raise EndorsementsError(f"{self._folder} cannot be read: {error.strerror}") from None
        if len(paths) > MAX_FILES:
            raise EndorsementsError(f"{self._folder} has {len(paths)} files; at most {MAX_FILES} are read")
        return paths


def _contents(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_FILE_SIZE + 1)
    if len(data) > MAX_FILE_SIZE:
        raise MalformedEvidenceError(f"it has more than {MAX_FILE_SIZE} bytes")
    return data


def _add_certificates_or_crl(
    data: bytes, certificates: list[Certificate], crls: list[tuple[bytes, RevocationList]]
) -> None:
    try:
        certificates += read_certificates(data)
    except MalformedCertificateError as error:
        # AMD and Intel serve CRLs as .der too.
        try:
            crls.append(_crl(data))
        except MalformedCertificateError:
            raise error from None


def _tcb_info(collateral: bytes) -> _TcbInfo:
    try:
        return msgspec.json.decode(msgspec.json.decode(collateral, type=_Collateral).tcb_info, type=_TcbInfo)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedEvidenceError(f"it is no collateral as dcap-qvl writes it: {error}") from None


def _crl(data: bytes) -> tuple[bytes, RevocationList]:
    if pem.detect(data):
        try:
            _, _, data = pem.unarmor(data)
        except (ValueError, TypeError) as error:
            raise MalformedCertificateError(f"a CRL is not well-formed PEM: {error}") from None
    return data, read_crl(data)


def _for_snp(evidence: Evidence, files: _Files) -> Endorsements:
    try:
        report = parse_report(evidence.body)
        given = tuple(map(read_certificate, evidence.endorsements.certificates))
    except MalformedEvidenceError as error:
        raise EndorsementsError(f"no endorsements are looked for: {error}") from None
    found = tuple(each for each in files.certificates if _fits(each, report))
    authorities = (*(each for hierarchy in PRODUCTION_ANCHORS for each in hierarchy.certificates), *files.certificates)
    issuers = {each.issuer for each in (*given, *found) if endorsement_key_of(each) is not None}
    roots = {authority.issuer for authority in authorities if authority.subject in issuers}
    return Endorsements(
        certificates=tuple(each.der for each in found),
        crls=tuple(der for der, crl in files.crls if crl.issuer in roots),
    )


def _fits(certificate: Certificate, report: Report) -> bool:
    key = endorsement_key_of(certificate)
    if key is None or key != report.key_info.signing_key.name:
        return False
    try:
        vek = read_vek(certificate)
        same_tcb = decode_tcb(report.reported_tcb, vek.product) == vek.tcb
    except MalformedEvidenceError:
        return False
    return same_tcb and (vek.hardware_id is None or report.chip_id == vek.hardware_id.ljust(64, b"\x00"))


def _for_quote(evidence: Evidence, files: _Files) -> Endorsements:
    fmspc, _ = platform_of(evidence.body)
    fitting = [
        (tcb_info.issue_date, data)
        for tcb_info, data in files.collateral
        if tcb_info.fmspc.upper() == fmspc and tcb_info.id.lower() == evidence.kind.value
    ]
    return Endorsements(collateral=max(fitting)[1]) if fitting else Endorsements()
