"""`keep-manager doctor`: what is wrong with a home and its host, each with its remedy."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from keep_manager.backends import host_checks
from keep_manager.config import Home, load_settings
from keep_manager.errors import ManagerError
from keep_manager.hardware import attesters, sgx_backend
from keep_manager.machines.checks import machine_backends
from keep_manager.machines.settings import MachineSettings
from keep_manager.machines.survey import Surveyor
from keep_manager.pki import PkiPaths, key_of, load_certificate, now
from keep_manager.roles import read_roles
from keep_manager.store import Store
from keep_manager.tls import server_context
from keep_protocol.manager_api import Check


def examine(home: Home) -> tuple[Check, ...]:
    """Every check, whether it passed or not; nothing is started or changed."""
    return (*_home_checks(home), *host_checks())


@dataclass(frozen=True, slots=True)
class Option:
    """Something that keeps could use on this host, and why they can or cannot."""

    name: str
    available: bool
    checks: tuple[Check, ...]


def options(home: Home) -> tuple[Option, ...]:
    """Kinds of evidence, and backends beside `process`."""
    try:
        settings = load_settings(home)
        tpm, machines = settings.tpm, settings.machines
    except ManagerError:
        tpm, machines = None, MachineSettings()
    survey = Surveyor(machines).look()
    evidence = (Option(f"evidence {info.kind}", info.available, info.checks) for info in attesters(tpm))
    backends = (*machine_backends(survey), sgx_backend())
    return (*evidence, *(Option(f"backend {info.name}", info.available, info.checks) for info in backends))


def _home_checks(home: Home) -> Iterator[Check]:
    yield _check("settings", lambda: f"deployment {load_settings(home).deployment}")
    yield _check("roles", lambda: f"{len(read_roles(home.roles_file))} identities")
    yield _check("pki", lambda: _pki(PkiPaths(home.pki)))
    yield _check("keys", lambda: _keys(PkiPaths(home.pki)))
    if home.database.exists():
        yield _check("database", lambda: _database(home))


def _pki(paths: PkiPaths) -> str:
    server_context(paths)
    left = load_certificate(paths.server).not_valid_after_utc - now()
    if left.days < 0:
        raise ManagerError(f"{paths.server} has expired: the running manager renews it; start it")
    return f"server certificate valid for {left.days} days"


def _keys(paths: PkiPaths) -> str:
    for certificate in (paths.client_ca, paths.server_ca, paths.server):
        try:
            mode = stat.S_IMODE(os.stat(key_of(certificate)).st_mode)
        except OSError as error:
            raise ManagerError(f"{key_of(certificate)}: {error.strerror}") from None
        if mode & 0o077:
            raise ManagerError(f"{key_of(certificate)} is open to others: chmod 600 it")
    return "readable by their owner only"


def _database(home: Home) -> str:
    store = Store(home.database)
    try:
        return f"{len(store.keeps())} keeps, {store.last_cursor()} events"
    finally:
        store.close()


def _check(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except ManagerError as error:
        return Check(name, False, "", str(error))
