"""From a file to a workload's configuration, and to the network that a keep for it needs."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from keep_client.configuration_file.complaints import in_words_of_toml
from keep_client.configuration_file.document import Document, kind_of
from keep_client.configuration_file.features import feature_named
from keep_client.configuration_file.files import read_files
from keep_client.configuration_file.places import Path as Place
from keep_protocol.egress.errors import EgressError
from keep_protocol.egress.rule_text import parse_rule
from keep_protocol.egress.targets import target_of
from keep_protocol.network_policy import Egress, EgressRule, NetworkPolicy
from keep_protocol.workload_configuration import ConnectFile, ListenFile, StdinFile, WorkloadConfiguration

ENARX_NAME: Final = "enarx.toml"
"""The name, in lower case, by which a file of Enarx's is told from one of ours."""

_ENARX_KEYS: Final = frozenset({"steward", "args", "env", "files"})
_KEYS: Final = frozenset(
    {
        *("args", "env", "stdin", "stdout", "stderr", "reuse", "restart", "files"),
        *("directories", "secrets", "limits", "http", "egress", "features"),
    }
)
_DIRECTORY_KEYS: Final = frozenset({"guest", "area", "path", "writable"})
_SECRET_KEYS: Final = frozenset({"name", "env", "file"})
_LIMIT_KEYS: Final = frozenset({"memory", "run_time", "output"})
_HTTP_KEYS: Final = frozenset({"enabled", "wagi", "port", "public"})
_EGRESS_KEYS: Final = frozenset({"allow", "deny"})

_SIZE: Final = re.compile(r"([0-9]{1,15})([KMGT]?)", re.ASCII)
_TIME: Final = re.compile(r"([0-9]{1,9})([smhd]?)", re.ASCII)
_SIZES: Final = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_TIMES: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_AT: Final = re.compile(r" - at `(?:key in )?\$([^`]*)`$")


@dataclass(frozen=True)
class ConfigurationFile:
    """What a file amounts to."""

    configuration: WorkloadConfiguration
    network: NetworkPolicy
    """What a keep's spec has to allow for it, and no more."""
    warnings: tuple[str, ...] = ()
    """What was read otherwise than its writer may have meant."""
    inherits_stdin: bool = False
    """Whether the run reads what whoever starts it has as standard input, as Enarx had it."""


def read_configuration(path: Path) -> ConfigurationFile:
    """Read a `Keep.toml`, or an `Enarx.toml` if it is called so. Raises `InvalidArgumentError`."""
    document = Document.read(path)
    warnings: list[str] = []
    enarx = path.name.lower() == ENARX_NAME
    wanted, denied = (_enarx(document, warnings), ()) if enarx else _keep(document, warnings)
    try:
        configuration = msgspec.convert(wanted, WorkloadConfiguration)
    except msgspec.ValidationError as error:
        place = _place(str(error))
        raise document.error(place, in_words_of_toml(_AT.sub("", str(error)), place)) from None
    try:
        network = _network(configuration, denied)
    except ValueError as error:  # what contradicts itself
        raise document.error((), str(error)) from None
    inherits_stdin = enarx and any(isinstance(file, StdinFile) for file in configuration.files or ())
    return ConfigurationFile(configuration, network, tuple(warnings), inherits_stdin)


def _enarx(document: Document, warnings: list[str]) -> dict[str, Any]:
    content = document.content
    for key in content.keys() - _ENARX_KEYS:
        warnings.append(f"{document.where((key,))}: ignored, as Enarx did")
    if "steward" in content:
        steward = content["steward"]
        if not isinstance(steward, str) or not steward.startswith("https://"):
            raise document.error(("steward",), f"expected a URL that begins with https://, found {steward!r}")
        warnings.append(f"{document.where(('steward',))}: ignored: keeps prove themselves, and need no steward")
    if "files" not in content:
        warnings.append(f"{document.path}: without `files` the guest has no standard streams, as in Enarx")
    # Enarx gives no folders.
    made: dict[str, Any] = {"mounts": [], "files": []}
    if "files" in content:
        made["files"] = read_files(document, enarx=True, warnings=warnings)
    if "env" in content:
        made["env"] = _variables(document, content["env"])
    return made | ({"args": content["args"]} if "args" in content else {})


def _keep(document: Document, warnings: list[str]) -> tuple[dict[str, Any], tuple[EgressRule, ...]]:
    content = document.check_keys((), document.content, _KEYS)
    made: dict[str, Any] = {
        key: content[key] for key in ("args", "stdin", "stdout", "stderr", "reuse", "restart") if key in content
    }
    if "features" in content:
        made["features"] = _features(document, content["features"])
    if "env" in content:
        made["env"] = _variables(document, content["env"])
    if "files" in content:
        made["files"] = read_files(document, enarx=False, warnings=warnings)
    for key, name, known in (("directories", "mounts", _DIRECTORY_KEYS), ("secrets", "secrets", _SECRET_KEYS)):
        if key in content:
            entries = document.array((key,), content[key])
            made[name] = [document.check_keys((key, number), entry, known) for number, entry in enumerate(entries)]
    if "limits" in content:
        made["limits"] = _limits(document, content["limits"])
    if "http" in content:
        made["http"] = document.check_keys(("http",), content["http"], _HTTP_KEYS)
    egress = document.check_keys(("egress",), content.get("egress", {}), _EGRESS_KEYS)
    if "allow" in egress:
        made["egress"] = msgspec.to_builtins(_rules(document, ("egress", "allow"), egress["allow"]))
    return made, _rules(document, ("egress", "deny"), egress.get("deny", []))


def _features(document: Document, value: Any) -> list[str]:
    features = []
    for number, name in enumerate(document.array(("features",), value)):
        if not isinstance(name, str):
            raise document.error(("features", number), f"expected the name of a feature, found {kind_of(name)}")
        try:
            features.append(feature_named(name).value)
        except ValueError as error:
            raise document.error(("features", number), str(error)) from None
    return features


def _variables(document: Document, table: Any) -> dict[str, str]:
    """The environment. msgspec does not say which variable is wrong."""
    if not isinstance(table, dict):
        raise document.error(("env",), f"expected a table, found {kind_of(table)}")
    for name, value in table.items():
        if not name or "=" in name or "\0" in name:
            raise document.error(
                ("env", name), "the name of a variable is not empty, and has no `=` and no zero character"
            )
        if not isinstance(value, str):
            raise document.error(("env", name), f"expected a string, found {kind_of(value)}")
        if "\0" in value:
            raise document.error(("env", name), "the value of a variable has no zero character")
    return table


def _limits(document: Document, table: Any) -> dict[str, int]:
    limits = document.check_keys(("limits",), table, _LIMIT_KEYS)
    made = {}
    for name, value in limits.items():
        pattern, units = (_TIME, _TIMES) if name == "run_time" else (_SIZE, _SIZES)
        made[name] = _quantity(document, ("limits", name), value, pattern, units)
    return made


def _quantity(document: Document, at: Place, value: Any, pattern: re.Pattern[str], units: dict[str, int]) -> int:
    if type(value) is int:
        return value
    matched = pattern.fullmatch(value) if isinstance(value, str) else None
    if matched is None:
        named = ", ".join(unit for unit in units if unit)
        raise document.error(at, f"expected a number, or a string with one of {named} behind it, found {value!r}")
    return int(matched[1]) * units[matched[2]]


def _rules(document: Document, at: Place, value: Any) -> tuple[EgressRule, ...]:
    rules = []
    for number, text in enumerate(document.array(at, value)):
        if not isinstance(text, str):
            raise document.error((*at, number), f"expected a rule as a string, found {kind_of(text)}")
        try:
            rules.append(parse_rule(text))
        except EgressError as error:
            raise document.error((*at, number), str(error)) from None
    return tuple(rules)


def _network(configuration: WorkloadConfiguration, denied: tuple[EgressRule, ...]) -> NetworkPolicy:
    listen = {file.port for file in configuration.files or () if isinstance(file, ListenFile)}
    if configuration.http is not None and configuration.http.port is not None:
        listen.add(configuration.http.port)
    connecting = [_rule_for(file) for file in configuration.files or () if isinstance(file, ConnectFile)]
    allowed = tuple(dict.fromkeys((*connecting, *configuration.egress)))
    return NetworkPolicy(listen=tuple(sorted(listen)), egress=Egress(allow=allowed, deny=denied))


def _rule_for(file: ConnectFile) -> EgressRule:
    target = target_of(file.host, file.port)
    return parse_rule(f"{target}{'+private' if _is_private(str(target.host)) else ''}")


def _is_private(host: str) -> bool:
    """Whether an address is said to be one; what a name resolves to is not known here."""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return host == "localhost"


def _place(message: str) -> Place:
    """The path in msgspec's complaint, by the names of the file."""
    matched = _AT.search(message)
    if matched is None:
        return ()
    parts = re.findall(r"\.([A-Za-z0-9_]+)|\[([0-9]+)\]", matched[1])
    place: Place = tuple(int(number) if number else name for name, number in parts)
    return ("directories", *place[1:]) if place[:1] == ("mounts",) else place
