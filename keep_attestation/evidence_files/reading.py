"""From a path to evidence of any kind, with what lies beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

import msgspec

from keep_attestation.errors import EndorsementsError, MalformedEvidenceError
from keep_attestation.evidence import Evidence
from keep_attestation.evidence_files.companions import ENDORSING, Companion, select
from keep_attestation.evidence_files.content import BEARERS, PIECES, WHOLE, Content, Part
from keep_attestation.evidence_files.encoding import octets_of
from keep_attestation.evidence_files.recognition import UnknownContentError, detect, recognise
from keep_attestation.evidence_files.tpm_pieces import assemble_azure, assemble_tpm
from keep_attestation.ratls.certificate import PresentedEvidence, read_ratls, read_ratls_request
from keep_attestation.ratls.cmw import decode_json_wrapper
from keep_attestation.ratls.collection import KeepCollection, collection_from, decode_collection
from keep_attestation.ratls.presentation import OWN_CONVENTION, Conventions
from keep_attestation.snp.certificate_table import endorsements_of_table
from keep_attestation.snp.report import REPORT_SIZE
from keep_protocol.evidence import EvidenceKind

MAX_FILE_SIZE = 8 * 1024 * 1024
MAX_FILES = 256
"""In a folder. Evidence is looked for beside files of a download folder, not in an archive."""

_WITH_COLLATERAL = frozenset({Content.COLLATERAL, Content.PCS_REPLY, Content.CRL, Content.CERTIFICATES})
"""Intel's collateral in one file, or in a folder of what its service replied."""
_WITH_LOG = frozenset({EvidenceKind.TDX, EvidenceKind.TPM, EvidenceKind.AZURE_SNP, EvidenceKind.AZURE_TDX})

Subject: TypeAlias = Evidence | KeepCollection | PresentedEvidence

__all__ = ["EvidenceFile", "Subject", "UnknownContentError", "detect", "read_evidence"]


@dataclass(frozen=True, slots=True)
class EvidenceFile:
    """What a path holds; nothing is verified."""

    subject: Subject
    """Bare evidence, a keep's collection, or what a certificate or request presents."""
    used: tuple[Path, ...]
    """The files it was taken from."""

    @property
    def kind(self) -> EvidenceKind:
        """Of the first piece of evidence."""
        return self.evidence.kind

    @property
    def evidence(self) -> Evidence:
        """The first piece of evidence."""
        match self.subject:
            case Evidence():
                return self.subject
            case KeepCollection():
                return self.subject.evidence
            case PresentedEvidence():
                return self.subject.items[0].evidence


def read_evidence(
    path: Path,
    *,
    kind: EvidenceKind | None = None,
    accept: Conventions = OWN_CONVENTION,
    nonce: bytes | None = None,
    endorsements: Iterable[Path] = (),
    collateral: Path | None = None,
    log: Path | None = None,
    at: datetime | None = None,
) -> EvidenceFile:
    """The evidence in the file or folder `path`.

    `kind` replaces what the bytes look like, and in a folder says which of several pieces is meant. `accept` and
    `nonce` are for certificates (see `read_ratls`). `endorsements` are files and folders; what is named goes to the
    verifier whether it fits or not, of folders, and of what lies beside the evidence, what fits. Collateral is taken as
    of `at` (now, unless given).

    Raises `UnknownContentError` for a file that is no evidence, `MalformedEvidenceError` for evidence in pieces of
    which one is missing, and `EndorsementsError` for endorsements that cannot be used.
    """
    at = datetime.now(UTC) if at is None else at
    given = [
        *(companion for each in endorsements for companion in _given(each, ENDORSING)),
        *([] if collateral is None else _given(collateral, _WITH_COLLATERAL)),
        *([] if log is None else _given(log, {Content.EVENT_LOG})),
    ]
    beside = _folder(path if path.is_dir() else path.parent)
    if path.is_dir():
        main = _main_of(path, beside, kind)
    elif kind is None:
        main = Companion(path, _recognised(path), given=True)
    else:
        return _bare(Evidence(kind=kind, body=octets_of(_contents(path))), path, [*given, *beside], at)
    companions = [*given, *(each for each in beside if each.path != main.path)]
    content = main.part.content
    if content in BEARERS:
        return _borne(main, accept, nonce, companions, at)
    if content in WHOLE:
        return _bare(_whole(main.part), main.path, companions, at)
    if content is Content.HCL_REPORT or any(each.part.content is Content.HCL_REPORT for each in companions):
        assembled = assemble_azure([main, *companions], at)
    else:
        assembled = assemble_tpm([main, *companions])
    return EvidenceFile(assembled.evidence, assembled.used)


def _recognised(path: Path) -> Part:
    try:
        part = recognise(_contents(path))
    except UnknownContentError as error:
        raise UnknownContentError(f"{path} is no evidence that is known: {error}") from None
    if part.content not in WHOLE | BEARERS | PIECES:
        raise UnknownContentError(f"{path} is {part.content}, which is no evidence by itself: name the evidence")
    return part


def _main_of(folder: Path, companions: Sequence[Companion], kind: EvidenceKind | None) -> Companion:
    """The one piece of evidence in a folder: bare evidence before certificates that hold it once more."""
    # A virtual TPM's report holds the hardware's, so a quote beside it is part of it.
    for contents in ({Content.HCL_REPORT}, {Content.TPM_QUOTE}, WHOLE, BEARERS):
        found = {each.part.data: each for each in companions if each.part.content in contents}
        if kind is not None:
            found = (
                {} if contents is BEARERS else {data: each for data, each in found.items() if each.part.kind is kind}
            )
        quotes = {_quote_of(each.part): each for each in found.values()}
        if len(quotes) > 1:
            names = ", ".join(sorted(each.path.name for each in quotes.values()))
            raise UnknownContentError(f"{folder} holds several pieces of evidence: {names}; name one of them")
        if quotes:
            return next(iter(quotes.values()))
    seen = ", ".join(sorted(f"{each.path.name} ({each.part.content})" for each in companions)) or "nothing known"
    raise UnknownContentError(f"{folder} holds no evidence; it holds {seen}")


def _quote_of(part: Part) -> bytes:
    # The same quote may lie beside its JSON, the same report beside the one with its certificates.
    return _whole(part).body if part.content in WHOLE else part.data


def _whole(part: Part) -> Evidence:
    match part.content:
        case Content.QUOTE_IN_JSON:
            return _quote_in_json(part.data)
        case Content.SNP_EXTENDED_REPORT:
            report, table = part.data[:REPORT_SIZE], part.data[REPORT_SIZE:]
            return Evidence(kind=EvidenceKind.SNP, body=report, endorsements=endorsements_of_table(table))
        case _:
            return Evidence(kind=part.kind, body=part.data)


def _quote_in_json(data: bytes) -> Evidence:
    try:
        document = msgspec.json.decode(data, type=_QuoteInJson)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise MalformedEvidenceError(f"a quote in JSON cannot be read: {error}") from None
    # dstack writes its log as JSON in a string, Confidential Containers the CCEL in base64.
    log = document.event_log or document.cc_eventlog
    quote = recognise(document.quote.encode()).data
    return Evidence(kind=EvidenceKind.TDX, body=quote, log=None if not log else octets_of(log.encode()))


class _QuoteInJson(msgspec.Struct, frozen=True):
    quote: str
    event_log: str | None = None
    cc_eventlog: str | None = None


def _bare(evidence: Evidence, path: Path, companions: Sequence[Companion], at: datetime) -> EvidenceFile:
    selection = select(evidence.kind, evidence.body, companions, at)
    used = [path, *selection.used]
    logs = [each for each in companions if each.part.content is Content.EVENT_LOG]
    if logs and evidence.kind in _WITH_LOG and (evidence.log is None or logs[0].given):
        evidence = msgspec.structs.replace(evidence, log=logs[0].part.data)
        used.append(logs[0].path)
    evidence = msgspec.structs.replace(evidence, endorsements=evidence.endorsements + selection.endorsements)
    return EvidenceFile(evidence, tuple(used))


def _borne(
    bearer: Companion, accept: Conventions, nonce: bytes | None, companions: Sequence[Companion], at: datetime
) -> EvidenceFile:
    # Only what was named: evidence in a certificate comes with what vouches for it.
    given = [each for each in companions if each.given or each.part.content is Content.COLLATERAL]
    used: list[Path] = [bearer.path]

    def endorsed(evidence: Evidence) -> Evidence:
        selection = select(evidence.kind, evidence.body, given, at)
        used.extend(path for path in selection.used if path not in used)
        return msgspec.structs.replace(evidence, endorsements=evidence.endorsements + selection.endorsements)

    subject: Subject
    match bearer.part.content:
        case Content.COLLECTION:
            collection = _collection(bearer.part.data)
            subject = replace(collection, evidence=endorsed(collection.evidence))
        case Content.RATLS_REQUEST:
            subject = read_ratls_request(bearer.part.data, accept=accept)
        case _:
            subject = read_ratls(bearer.part.data, accept=accept, nonce=nonce)
    if isinstance(subject, PresentedEvidence):
        items = tuple(replace(item, evidence=endorsed(item.evidence)) for item in subject.items)
        subject = replace(subject, items=items)
    return EvidenceFile(subject, tuple(used))


def _collection(data: bytes) -> KeepCollection:
    if data.lstrip().startswith(b"{"):
        return collection_from(decode_json_wrapper(data.decode(errors="replace")))
    return decode_collection(data)


def _folder(folder: Path) -> list[Companion]:
    """Every file that is known; the others belong to somebody else."""
    try:
        paths = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    except OSError as error:
        raise EndorsementsError(f"{folder} cannot be read: {error.strerror}") from None
    companions: list[Companion] = []
    for path in paths[:MAX_FILES]:
        with suppress(UnknownContentError, EndorsementsError):
            companions.append(Companion(path, recognise(_contents(path)), given=False))
    return companions


def _given(path: Path, wanted: Set[Content]) -> list[Companion]:
    if path.is_dir():
        return [each for each in _folder(path) if each.part.content in wanted]
    try:
        part = recognise(_contents(path))
    except UnknownContentError as error:
        raise EndorsementsError(f"{path} cannot be used: {error}") from None
    if part.content not in wanted:
        expected = " or ".join(sorted(wanted))
        raise EndorsementsError(f"{path} is {part.content}; expected {expected}")
    return [Companion(path, part, given=True)]


def _contents(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_SIZE + 1)
    except OSError as error:
        raise EndorsementsError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > MAX_FILE_SIZE:
        raise UnknownContentError(f"{path} has more than {MAX_FILE_SIZE} bytes")
    return data
