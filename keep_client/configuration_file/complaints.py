"""What msgspec says of a value that cannot be, in the words of TOML and with what it could be."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from keep_client.configuration_file.places import Path
from keep_protocol.secret_api import SECRET_NAME_RULE
from keep_protocol.states import FileArea
from keep_protocol.workload_configuration import ClientCertificates, ConnectIdentity, OutputPolicy

_KINDS: Final = {
    "str": "a string",
    "int": "an integer",
    "float": "a float",
    "bool": "a boolean",
    "array": "an array",
    "object": "a table",
}
_TIMES: Final = ("date", "time", "datetime")
_CHOICES: Final = {
    "stdin": ("none", "stream"),
    "stdout": tuple(OutputPolicy),
    "stderr": tuple(OutputPolicy),
    "area": tuple(FileArea),
    "client_certificates": tuple(ClientCertificates),
    "identity": tuple(ConnectIdentity),
}
_TEXT: Final = "text without zero characters"
_VARIABLE: Final = "the name of a variable, without `=`"
_SECRET: Final = f"the name of a secret: {SECRET_NAME_RULE}"
_FORMS: Final = {
    ("files", "name"): "a name without colons, which separate names in FD_NAMES",
    ("files", "host"): "the name or the address of a host, without scheme, port and path",
    ("files", "addr"): "an IP address or `localhost`",
    ("files", "roots"): "a file with certificates in PEM (-----BEGIN CERTIFICATE-----)",
    ("files", "secret"): _SECRET,
    ("secrets", "name"): _SECRET,
    ("secrets", "env"): _VARIABLE,
}
"""Of a string, by the outermost key and the innermost."""


def in_words_of_toml(complaint: str, at: Path) -> str:
    """The complaint about what stands at a place; one that is not known stays as it is."""
    for pattern, words in _TRANSLATIONS:
        if matched := pattern.fullmatch(complaint):
            return words(matched, at)
    return complaint


def _of_another_kind(matched: re.Match[str], _at: Path) -> str:
    wanted = [_kind(name) for name in matched[1].split(" | ") if name != "null"]
    return f"expected {' or '.join(wanted)}, found {_kind(matched[2])}"


def _kind(name: str) -> str:
    return "a time" if name in _TIMES else _KINDS.get(name, name)


def _of_other_choices(matched: re.Match[str], at: Path) -> str:
    choices = _CHOICES.get(str(at[-1])) if at else None
    if choices is None:
        return matched[0]
    named = ", ".join(f'"{choice}"' for choice in choices)
    return f"expected one of {named}, found {matched[1]}"


def _of_another_form(_matched: re.Match[str], at: Path) -> str:
    keys = [part for part in at if isinstance(part, str)]
    return f"expected {_FORMS.get((keys[0], keys[-1]), _TEXT) if keys else _TEXT}"


def _beyond_bounds(matched: re.Match[str], _at: Path) -> str:
    return f"expected an integer of at {'least' if matched[1] == '>=' else 'most'} {matched[2]}"


def _of_other_length(matched: re.Match[str], _at: Path) -> str:
    if matched[2] == ">=":
        return f"expected {_kind(matched[1])} that is not empty"
    return f"expected {_kind(matched[1])} of at most {matched[3]} {'characters' if matched[1] == 'str' else 'items'}"


def _incomplete(matched: re.Match[str], _at: Path) -> str:
    return f"it needs `{matched[1]}`"


_TRANSLATIONS: Final[tuple[tuple[re.Pattern[str], Callable[[re.Match[str], Path], str]], ...]] = (
    (re.compile(r"Expected `([^`]+)`, got `([^`]+)`"), _of_another_kind),
    (re.compile(r"Invalid enum value (.*)", re.DOTALL), _of_other_choices),
    (re.compile(r"Expected `str` matching regex .*", re.DOTALL), _of_another_form),
    (re.compile(r"Expected `int` (>=|<=) (-?[0-9]+)"), _beyond_bounds),
    (re.compile(r"Expected `(str|array|object)` of length (>=|<=) ([0-9]+)"), _of_other_length),
    (re.compile(r"Object missing required field `([^`]+)`"), _incomplete),
)
