"""SNP reports and TDX quotes through configfs-tsm (Linux 6.7, Documentation/ABI/testing/configfs-tsm-report)."""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final

from app_loader.attesters.certificate_table import endorsements_of_table
from app_loader.attesters.interface import Attestation, Statement
from app_loader.errors import AttesterError
from keep_protocol.evidence import EvidenceKind

REPORTS: Final = Path("/sys/kernel/config/tsm/report")
_PROVIDERS: Final = {EvidenceKind.SNP: "sev_guest", EvidenceKind.TDX: "tdx_guest"}
_MAX_BLOB: Final = 64 * 1024
_ATTEMPTS: Final = 3


class ConfigfsAttester:
    """One kind of evidence from the kernel's report interface; a folder of its own for every request."""

    def __init__(self, kind: EvidenceKind, reports: Path = REPORTS) -> None:
        """Raises `AttesterError` where the kernel offers no reports of this kind."""
        self.kind = kind
        self._reports = reports
        if not reports.is_dir():
            raise AttesterError(f"{reports} does not exist: configfs is not mounted, or the kernel is older than 6.7")
        with _Request(reports) as request:
            provider = request.text("provider")
        if provider != _PROVIDERS[kind]:
            raise AttesterError(f"the kernel's reports are by {provider!r}, and {kind} needs {_PROVIDERS[kind]!r}")

    def attest(self, statement: Statement) -> Attestation:
        for _ in range(_ATTEMPTS):
            with _Request(self._reports) as request:
                before = int(request.text("generation"))
                request.write("inblob", statement.report_data)
                report = request.read("outblob")
                table = request.read("auxblob") if self.kind is EvidenceKind.SNP else b""
                # Somebody else wrote to our folder meanwhile if it moved by more than our one write.
                if int(request.text("generation")) == before + 1:
                    endorsements = endorsements_of_table(table) if table.strip(b"\0") else None
                    return Attestation(report, endorsements)
        raise AttesterError("the kernel's report was changed while it was read, three times")


class _Request:
    """A report folder, which goes when it is left."""

    def __init__(self, reports: Path) -> None:
        self._folder = reports / f"keep-{secrets.token_hex(8)}"

    def __enter__(self) -> _Request:
        try:
            self._folder.mkdir()
        except OSError as error:
            hint = ": no provider of reports is loaded" if error.errno == errno.ENXIO else ""
            raise AttesterError(f"the kernel makes no report: {error.strerror}{hint}") from None
        return self

    def __exit__(self, *_: object) -> None:
        # configfs removes the attributes with their folder.
        with suppress(OSError):
            self._folder.rmdir()

    def text(self, attribute: str) -> str:
        return self.read(attribute).decode("ascii", "replace").strip()

    def read(self, attribute: str) -> bytes:
        try:
            with (self._folder / attribute).open("rb", buffering=0) as file:
                content = b""
                while piece := file.read(_MAX_BLOB):
                    content += piece
                    if len(content) > _MAX_BLOB:
                        raise AttesterError(f"the kernel's {attribute} has more than {_MAX_BLOB} bytes")
                return content
        except OSError as error:
            raise AttesterError(f"the kernel's {attribute} cannot be read: {error.strerror}") from None

    def write(self, attribute: str, content: bytes) -> None:
        try:
            descriptor = os.open(self._folder / attribute, os.O_WRONLY | os.O_CLOEXEC)
            try:
                # A binary attribute is committed when it is closed: all of it in one write.
                written = os.write(descriptor, content)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise AttesterError(f"the kernel's {attribute} cannot be written: {error.strerror}") from None
        if written != len(content):
            raise AttesterError(f"the kernel took {written} bytes of {attribute}, not {len(content)}")
