"""Who may do what at the manager: `config/roles.toml`, in force from the next request after it changes."""

from __future__ import annotations

import logging
import os
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keep_manager.config import write_private
from keep_manager.errors import ConfigurationError
from keep_manager.sizes import parse_size as parse_size
from keep_protocol.states import ManagerRole

_logger = logging.getLogger(__name__)

_SPIFFE_ID = re.compile(r"spiffe://[a-z0-9.-]+(?:/[A-Za-z0-9._-]+)+", re.ASCII)
_QUOTAS = ("max_keeps", "max_memory", "max_disk")


@dataclass(frozen=True, slots=True)
class Quota:
    """What the keeps of one tenant may use together; sizes in bytes, as far as their limits allow."""

    max_keeps: int
    max_memory: int
    max_disk: int


@dataclass(frozen=True, slots=True)
class Rights:
    """What the table says of one identity. A tenant has a quota; nobody else."""

    roles: frozenset[ManagerRole] = frozenset()
    quota: Quota | None = None


NO_RIGHTS = Rights()


class RolesTable:
    """The table on disk, read again whenever the file is another one."""

    def __init__(self, path: Path) -> None:
        """Raises `ConfigurationError` when the file is not usable."""
        self._path = path
        self._signature = _signature(path)
        self._rights = read_roles(path)
        self.error: str | None = None
        """Why the newest version of the file is not in force."""

    def rights(self, identity: str) -> Rights:
        """The rights of an identity; none for one that the table does not name."""
        self._reload()
        return self._rights.get(identity, NO_RIGHTS)

    def _reload(self) -> None:
        signature = _signature(self._path)
        if signature == self._signature:
            return
        self._signature = signature
        try:
            self._rights = read_roles(self._path)
        except ConfigurationError as error:
            # An unfinished edit must not lock everybody out: the last good table stays, loudly.
            self.error = str(error)
            _logger.error("the roles table is not usable, the previous one stays in force: %s", error)
        else:
            self.error = None
            _logger.info("roles table loaded: %d identities", len(self._rights))


def read_roles(path: Path) -> dict[str, Rights]:
    """The whole table. Raises `ConfigurationError` that names the line's identity and the remedy."""
    try:
        with path.open("rb") as file:
            document = tomllib.load(file)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not TOML: {error}") from None
    if unknown := sorted(document.keys() - {"identities"}):
        raise ConfigurationError(f'{path}: unknown key `{unknown[0]}`; write [identities."spiffe://…"] tables')
    identities = document.get("identities", {})
    if not isinstance(identities, dict):
        raise ConfigurationError(f'{path}: `identities` is not a table of [identities."spiffe://…"]')
    rights = {}
    for identity, entry in identities.items():
        try:
            rights[identity] = _rights(identity, entry)
        except ConfigurationError as error:
            raise ConfigurationError(f"{path}: {identity}: {error}") from None
    return rights


def write_first_roles(path: Path, operator: str) -> None:
    """The table of a new home: one operator, and how to add others."""
    text = f'''# Who may do what at the keep-manager; changes are in force at once.
# Roles: operator (everything), tenant (its own keeps, within its quota), auditor (reads everything).
# Whoever is not named here is refused. Example:
#
# [identities."spiffe://DOMAIN/user/alice"]
# roles = ["tenant"]
# max_keeps = 4
# max_memory = "4G"
# max_disk = "20G"

[identities."{operator}"]
roles = ["operator"]
'''
    write_private(path, text.encode())


def add_identity(path: Path, identity: str, roles: list[ManagerRole], quota: Quota | None) -> None:
    """Append an identity to the table; what operators wrote there stays. Raises `ConfigurationError`."""
    if identity in read_roles(path):
        raise ConfigurationError(f"{path} names {identity} already; edit its roles there")
    lines = ["", f'[identities."{identity}"]', f"roles = [{', '.join(f'{chr(34)}{role}{chr(34)}' for role in roles)}]"]
    if quota is not None:
        lines += [f"{name} = {getattr(quota, name)}" for name in _QUOTAS]
    write_private(path, path.read_bytes().rstrip() + ("\n" + "\n".join(lines) + "\n").encode())


def _rights(identity: str, entry: Any) -> Rights:
    if _SPIFFE_ID.fullmatch(identity) is None:
        raise ConfigurationError("is not a SPIFFE id such as spiffe://DOMAIN/user/NAME")
    if not isinstance(entry, dict):
        raise ConfigurationError("is not a table")
    if unknown := sorted(entry.keys() - {"roles", *_QUOTAS}):
        raise ConfigurationError(f"unknown key `{unknown[0]}`; known are roles, {', '.join(_QUOTAS)}")
    names = entry.get("roles")
    if not isinstance(names, list) or not names:
        raise ConfigurationError("`roles` is missing or not a list")
    try:
        roles = frozenset(ManagerRole(name) for name in names)
    except ValueError:
        raise ConfigurationError(f"`roles` is {names}, of which only {', '.join(ManagerRole)} exist") from None
    if ManagerRole.TENANT not in roles:
        if given := [name for name in _QUOTAS if name in entry]:
            raise ConfigurationError(f"`{given[0]}` is for tenants only")
        return Rights(roles)
    if missing := [name for name in _QUOTAS if name not in entry]:
        raise ConfigurationError(f"a tenant needs `{missing[0]}`")
    if type(entry["max_keeps"]) is not int or entry["max_keeps"] < 0:
        raise ConfigurationError("`max_keeps` is not a number of keeps")
    return Rights(roles, Quota(entry["max_keeps"], parse_size(entry["max_memory"]), parse_size(entry["max_disk"])))


def _signature(path: Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
