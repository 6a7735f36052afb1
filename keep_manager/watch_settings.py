"""`[watch]` of `wasmkeep.toml`: whether the manager looks at its keeps' evidence again and again, and what follows."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from keep_manager.errors import ConfigurationError

WATCH_KEYS: Final = frozenset({"interval", "failures", "action", "policy"})
_INTERVALS: Final = (10, 86_400)
_DEFAULT_INTERVAL: Final = 300
_DEFAULT_FAILURES: Final = 2


class WatchAction(StrEnum):
    """What follows when a keep could not be verified too often in a row."""

    WARN = "warn"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """How keeps are watched."""

    interval: int
    """Seconds between rounds."""
    failures: int
    """Rounds in a row that may fail."""
    action: WatchAction
    policy: Path
    """A policy file, as `keepctl policy init` writes them."""


def read_watch(table: dict[str, Any], folder: Path) -> WatchSettings | None:
    """The settings in the table; None when it is empty. Paths begin at `folder`. Raises `ConfigurationError`."""
    if not table:
        return None
    policy = table.get("policy")
    if not isinstance(policy, str) or not policy:
        raise ConfigurationError("`watch.policy` must name a policy file: `keepctl policy init` writes one")
    least, most = _INTERVALS
    try:
        action = WatchAction(table.get("action", WatchAction.WARN))
    except ValueError:
        raise ConfigurationError(
            f"`watch.action` is {table['action']!r}, not one of {', '.join(WatchAction)}"
        ) from None
    return WatchSettings(
        interval=_number(table, "interval", _DEFAULT_INTERVAL, least, most),
        failures=_number(table, "failures", _DEFAULT_FAILURES, 0, 1000),
        action=action,
        policy=folder / policy,
    )


def _number(table: dict[str, Any], key: str, default: int, least: int, most: int) -> int:
    value = table.get(key, default)
    if type(value) is not int or not least <= value <= most:
        raise ConfigurationError(f"`watch.{key}` is {value!r}, not a number from {least} to {most}")
    return value
