"""A TOML file as it is read: its tables, and errors that name the key, its line and the nearest one that is known."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, Final

from keep_client.configuration_file.places import Path, line_of
from keep_client.errors import InvalidArgumentError

MAX_FILE: Final = 1_000_000
"""Bytes; as many as Enarx took."""


@dataclass(frozen=True)
class Document:
    """One file."""

    path: FilePath
    text: str
    content: dict[str, Any]

    @classmethod
    def read(cls, path: FilePath) -> Document:
        """Raises `InvalidArgumentError`."""
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise InvalidArgumentError(f"{path} cannot be read: {error.strerror}") from None
        if len(raw) > MAX_FILE:
            raise InvalidArgumentError(f"{path} has {len(raw)} bytes; a configuration has at most {MAX_FILE}")
        try:
            # Some editors begin files with U+FEFF, which the TOML library of Enarx passes over, and ours does not.
            text = raw.decode("utf-8-sig")
            return cls(path, text, tomllib.loads(text))
        except UnicodeDecodeError as error:
            raise InvalidArgumentError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from None
        except tomllib.TOMLDecodeError as error:
            raise InvalidArgumentError(f"{path} is no TOML: {error}") from None
        except RecursionError:
            raise InvalidArgumentError(f"{path} is nested too deeply") from None

    def error(self, at: Path, detail: str) -> InvalidArgumentError:
        """What is wrong at a place, with the place."""
        return InvalidArgumentError(f"{self.where(at)}: {detail}")

    def where(self, at: Path) -> str:
        """`FILE:LINE: KEY` for people."""
        line = line_of(self.text, at)
        return f"{self.path}{'' if line is None else f':{line}'}: {shown(at)}"

    def check_keys(self, at: Path, table: Any, known: Collection[str]) -> dict[str, Any]:
        """The table, if it is one and has known keys only. Raises `InvalidArgumentError`."""
        if not isinstance(table, dict):
            raise self.error(at, f"expected a table, found {kind_of(table)}")
        for key in table:
            if key not in known:
                near = _nearest(key, known)
                hint = f"did you mean `{near}`?" if near else f"known are {', '.join(sorted(known)) or 'none'}"
                raise self.error((*at, key), f"there is no such key; {hint}")
        return table

    def array(self, at: Path, value: Any) -> list[Any]:
        """Raises `InvalidArgumentError` if it is none."""
        if not isinstance(value, list):
            raise self.error(at, f"expected an array, found {kind_of(value)}")
        return value


def _nearest(key: str, known: Collection[str]) -> str | None:
    """The known key that is meant, as far as that can be told."""
    written = key.lower().replace("-", "_")
    longer = [name for name in known if written.startswith(name)]
    return max(longer, key=len) if longer else next(iter(difflib.get_close_matches(written, known, 1, 0.5)), None)


def shown(at: Path) -> str:
    """`files[3].port`"""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in at).removeprefix(".") or "the file"


def kind_of(value: Any) -> str:
    """What TOML calls it."""
    names = {bool: "a boolean", int: "an integer", float: "a float", str: "a string", list: "an array", dict: "a table"}
    return names.get(type(value), "a time")
