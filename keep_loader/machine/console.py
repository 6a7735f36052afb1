"""The end of what a machine wrote to its serial console: for the log, when it ends badly. Never a workload's output."""

from __future__ import annotations

from typing import Final

MAX_SIZE: Final = 16 * 1024
_MAX_LINE: Final = 300
_PANIC: Final = "Kernel panic - not syncing"


class Console:
    """Remembers the last `MAX_SIZE` bytes, however many come."""

    def __init__(self) -> None:
        self._content = bytearray()

    def feed(self, written: bytes) -> None:
        """The machine wrote more."""
        self._content += written
        del self._content[:-MAX_SIZE]

    def last_lines(self, count: int) -> list[str]:
        """The last lines that say something, printable and cut: they go into a log that people read.

        Before them that of a kernel's panic, which says why, and is followed by more lines than anybody reads.
        """
        lines = [_printable(line) for line in bytes(self._content).replace(b"\r", b"\n").split(b"\n")]
        lines = [line for line in lines if line]
        return [line for line in lines[:-count] if _PANIC in line][-1:] + lines[-count:]


def _printable(line: bytes) -> str:
    text = line.decode(errors="replace").strip()
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)[:_MAX_LINE]
