"""`[[files]]`: the guest's descriptors, in both kinds of files."""

from __future__ import annotations

from typing import Any, Final

from keep_client.configuration_file.document import Document
from keep_client.configuration_file.places import Path
from keep_protocol.egress.errors import EgressError
from keep_protocol.egress.hosts import canonical_host

_STREAMS: Final = ("null", "stdin", "stdout", "stderr")
_KEYS: Final = {
    **dict.fromkeys(_STREAMS, frozenset({"kind", "name"})),
    "listen": frozenset({"kind", "name", "prot", "addr", "port"}),
    "connect": frozenset({"kind", "name", "prot", "host", "port"}),
}
_EVERY_KEY: Final = frozenset().union(*_KEYS.values())
_TLS_KEYS: Final = {
    "listen": frozenset({"client_certificates", "roots"}),
    "connect": frozenset({"roots", "identity", "secret"}),
}
_PORTS: Final = {"tls": 443, "tcp": 80}


def read_files(document: Document, *, enarx: bool, warnings: list[str]) -> list[dict[str, Any]]:
    """The entries as `WorkloadConfiguration` has them, each default written out. Raises `InvalidArgumentError`."""
    entries = document.array(("files",), document.content["files"])
    return [
        _file(document, ("files", number), entry, enarx=enarx, warnings=warnings)
        for number, entry in enumerate(entries)
    ]


def _file(document: Document, at: Path, entry: Any, *, enarx: bool, warnings: list[str]) -> dict[str, Any]:
    kind = entry.get("kind") if isinstance(entry, dict) else None
    if not isinstance(entry, dict):
        document.check_keys(at, entry, ())
    if not isinstance(kind, str) or kind not in _KEYS:
        known = ", ".join(f'"{each}"' for each in _KEYS)
        raise document.error((*at, "kind"), f"expected one of {known}, found {kind!r}")
    known_keys = _KEYS[kind] if enarx or kind not in _TLS_KEYS else _KEYS[kind] | {"tls"}
    if enarx:
        entry = _without_others(document, at, entry, known_keys, warnings)
    document.check_keys(at, entry, known_keys)
    made = dict(entry)
    if kind in _TLS_KEYS:
        _fill_socket(document, at, made, kind, enarx=enarx, warnings=warnings)
    return made


def _without_others(
    document: Document, at: Path, entry: dict[str, Any], known: frozenset[str], warnings: list[str]
) -> dict[str, Any]:
    """Enarx 0.6 ignored keys that belong to another kind of file."""
    foreign = [key for key in entry if key in _EVERY_KEY and key not in known]
    for key in foreign:
        warnings.append(f"{document.where((*at, key))}: ignored, as Enarx 0.6 did: it means nothing for this kind")
    return {key: value for key, value in entry.items() if key not in foreign}


def _fill_socket(
    document: Document, at: Path, made: dict[str, Any], kind: str, *, enarx: bool, warnings: list[str]
) -> None:
    required = "name" if kind == "listen" else "host"
    if required not in made:
        raise document.error(at, f"a file of kind {kind!r} needs `{required}`")
    if "prot" not in made:
        if not enarx:
            raise document.error(at, 'it needs `prot`: "tcp" or "tls"')
        warnings.append(f'{document.where(at)}: without `prot` it is "tls", as in Enarx 0.6')
        made["prot"] = "tls"
        made.setdefault("port", 443)
    if not isinstance(made["prot"], str) or made["prot"] not in _PORTS:
        raise document.error((*at, "prot"), f'expected "tcp" or "tls", found {made["prot"]!r}')
    made.setdefault("port", _PORTS[made["prot"]])
    if kind == "connect" and isinstance(made["host"], str):
        _check_host(document, (*at, "host"), made["host"])
    if "tls" in made:
        made["tls"] = _tls(document, (*at, "tls"), made["tls"], kind)


def _check_host(document: Document, at: Path, host: str) -> None:
    try:
        canonical_host(host)
    except EgressError as error:
        raise document.error(at, f"expected the name or the address of one host: {error}") from None


def _tls(document: Document, at: Path, table: Any, kind: str) -> dict[str, Any]:
    made = dict(document.check_keys(at, table, _TLS_KEYS[kind]))
    if "roots" in made:
        made["roots"] = _certificates(document, (*at, "roots"), made["roots"])
    return made


def _certificates(document: Document, at: Path, name: Any) -> str:
    """What a file beside the configuration holds."""
    if not isinstance(name, str):
        raise document.error(at, "expected the name of a file with certificates in PEM")
    try:
        return (document.path.parent / name).read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else "it is not UTF-8"
        raise document.error(at, f"{name} cannot be read: {reason}") from None
