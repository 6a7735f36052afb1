"""The kernel's report folder in a temporary one: a path whose `mkdir` makes attributes and whose `rmdir` takes them.

What is read and written are real files; only what the kernel does when they are opened is played here.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

_ATTRIBUTES = ("provider", "generation", "inblob", "outblob")


@dataclass
class FakeKernel:
    """One provider of reports, as drivers/virt/coco/guest/report.c behaves towards user space."""

    provider: str | None = "sev_guest"
    report: Callable[[bytes], bytes] = lambda inblob: b"report over " + inblob
    auxblob: bytes | None = b""
    """None where the provider has no such attribute."""
    interfere: Callable[[Path], None] = lambda folder: None
    """Called when a report is read: somebody else at work in the folder."""
    requests: list[bytes] = field(default_factory=list)
    """Every inblob that was committed, in all folders."""
    _generations: dict[Path, int] = field(default_factory=dict)
    _inblobs: dict[Path, bytes] = field(default_factory=dict)

    def make(self, folder: Path) -> None:
        if self.provider is None:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        os.mkdir(folder)
        for name in (*_ATTRIBUTES, *(() if self.auxblob is None else ("auxblob",))):
            (folder / name).touch()
        self._generations[folder] = 0

    def remove(self, folder: Path) -> None:
        for attribute in folder.iterdir():
            attribute.unlink()
        os.rmdir(folder)

    def prepare(self, attribute: Path) -> None:
        """Fill an attribute that is about to be read."""
        folder = attribute.parent
        self._commit(folder)
        match attribute.name:
            case "provider":
                content = f"{self.provider}\n".encode()
            case "generation":
                content = f"{self._generations[folder]}\n".encode()
            case "outblob":
                content = self.report(self._inblob(folder))
                self.interfere(Path(folder))
            case "auxblob":
                self._inblob(folder)
                content = self.auxblob or b""
            case _:
                raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        attribute.write_bytes(content)

    def _inblob(self, folder: Path) -> bytes:
        if folder not in self._inblobs:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return self._inblobs[folder]

    def _commit(self, folder: Path) -> None:
        # A binary attribute takes effect when it is closed; its errors are nobody's then.
        inblob = folder / "inblob"
        content = inblob.read_bytes()
        if content:
            os.truncate(inblob, 0)
        if 1 <= len(content) <= 64:
            self.requests.append(content)
            self._inblobs[folder] = content
            self._generations[folder] += 1


def fake_reports(kernel: FakeKernel, folder: Path) -> Path:
    """`folder` as /sys/kernel/config/tsm/report of this kernel."""

    class ReportPath(type(folder)):  # type: ignore[misc]
        """Asks the kernel where real configfs would."""

        def mkdir(self, *_: Any, **__: Any) -> None:
            kernel.make(Path(self))

        def rmdir(self) -> None:
            kernel.remove(Path(self))

        def open(self, *arguments: Any, **named: Any) -> IO[Any]:
            kernel.prepare(Path(self))
            return super().open(*arguments, **named)  # type: ignore[no-any-return]

    reports: Path = ReportPath(folder)
    return reports
