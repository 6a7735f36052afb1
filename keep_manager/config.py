"""A deployment's home directory and its configuration file, `config/wasmkeep.toml`."""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keep_manager.errors import ConfigurationError
from keep_manager.machines.settings import KEYS as MACHINE_KEYS
from keep_manager.machines.settings import MachineSettings, parse_machines
from keep_manager.watch_settings import WATCH_KEYS, WatchSettings, read_watch
from keep_protocol.names import is_deployment_id

DEFAULT_DOMAIN = "wasmkeep.internal"
DEFAULT_LISTEN = "127.0.0.1:7443"
DEFAULT_ENDPOINT_ADDRESS = "127.0.0.1"
DEFAULT_LISTEN_PORTS = (1024, 65535)

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*", re.ASCII)

_KEYS: dict[str, frozenset[str]] = {
    "": frozenset({"domain", "deployment", "listen", "hosts", "systemd", "endpoints", "keeps", "machines", "watch"}),
    "endpoints": frozenset({"address", "ports"}),
    "keeps": frozenset({"allow_shared_uid", "listen_ports", "private_egress", "tpm"}),
    "machines": MACHINE_KEYS,
    "watch": WATCH_KEYS,
}


@dataclass(frozen=True, slots=True)
class Home:
    """Paths of a deployment; see docs/operating.md for who writes what."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config"

    @property
    def settings_file(self) -> Path:
        return self.config / "wasmkeep.toml"

    @property
    def roles_file(self) -> Path:
        return self.config / "roles.toml"

    @property
    def pki(self) -> Path:
        return self.config / "pki"

    @property
    def state(self) -> Path:
        return self.path / "state"

    @property
    def database(self) -> Path:
        return self.state / "manager.db"

    @property
    def sealing_keys(self) -> Path:
        return self.state / "keys"

    @property
    def lock_file(self) -> Path:
        return self.state / "manager.lock"

    @property
    def manager_file(self) -> Path:
        return self.path / "manager.json"


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: a literal IP address and a port, 0 for one that the kernel chooses."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class TenantNetwork:
    """What the host lets keeps of tenants have; operators are not bound by it."""

    listen_ports: tuple[int, int] = DEFAULT_LISTEN_PORTS
    """First and last."""
    private_egress: bool = False
    """Whether they may reach private addresses, among them what listens on this host's loopback."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`wasmkeep.toml`, checked."""

    domain: str
    """Trust domain of the SPIFFE ids, and parent of the keeps' names."""
    deployment: str
    """8 hex digits; part of every unit's name."""
    listen: Address
    hosts: tuple[str, ...]
    """Names and addresses by which clients reach this host."""
    systemd: str
    """Which supervisor: `auto`, `system`, `user`, `private` or `detached`."""
    endpoint_address: str
    endpoint_ports: tuple[int, int] | None
    """First and last port for keeps; None lets the kernel choose."""
    allow_shared_uid: bool
    """Whether keeps of several owners may run under one user, where the supervisor cannot separate them."""
    tpm: Path | None = None
    """Device or UNIX socket of the TPM 2.0 that keeps attest by; None: /dev/tpmrm0 where it exists."""
    machines: MachineSettings = field(default_factory=MachineSettings)
    watch: WatchSettings | None = None
    """How the manager looks at its keeps' evidence again and again; None: it does not."""
    tenant_network: TenantNetwork = TenantNetwork()


SUPERVISOR_KINDS = ("auto", "system", "user", "private", "detached")


def parse_address(text: str) -> Address:
    """`127.0.0.1:7443` or `[::1]:7443`. Raises `ConfigurationError`."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        raise ConfigurationError(f"{text!r} is not ADDRESS:PORT, such as 127.0.0.1:7443 or [::1]:7443") from None
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigurationError(f"{text!r} has no port from 0 to 65535 after its last colon")
    if (address.version == 6) != bracketed:
        raise ConfigurationError(f"{text!r}: an IPv6 address, and no other, stands in brackets")
    return Address(str(address), int(port))


def load_settings(home: Home) -> Settings:
    """The home's settings. Raises `ConfigurationError` that names file, key and remedy."""
    path = home.settings_file
    try:
        with path.open("rb") as file:
            document = tomllib.load(file)
    except FileNotFoundError:
        raise ConfigurationError(f"{home.path} is no home yet: run `keep-manager init --home {home.path}`") from None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not TOML: {error}") from None
    try:
        return _settings(document, home.config)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from None


def write_settings(home: Home, settings: Settings) -> None:
    """Write the configuration file of a new home, with a word on every key."""
    ports = f"ports = [{settings.endpoint_ports[0]}, {settings.endpoint_ports[1]}]" if settings.endpoint_ports else ""
    hosts = ", ".join(f'"{host}"' for host in settings.hosts)
    text = f'''# Configuration of a wasmkeep deployment. The manager reads it when it starts.

# Trust domain of the identities, and parent of the keeps' names in their certificates.
domain = "{settings.domain}"

# Part of every unit's name. Never change it: keeps would be orphans.
deployment = "{settings.deployment}"

# Where the manager listens; `keep-manager serve --listen` overrides it.
listen = "{settings.listen}"

# Names and addresses by which clients reach this host.
hosts = [{hosts}]

# What supervises keeps: auto, system, user, private or detached; `--systemd` overrides it.
systemd = "{settings.systemd}"

[endpoints]
# The address of this host at which clients reach keeps. One that is not loopback opens keeps to the network.
address = "{settings.endpoint_address}"
# First and last port for keeps. Without it the kernel chooses.
{ports or "# ports = [20000, 20999]"}

[keeps]
# Keeps of several owners may run under one user where the supervisor cannot give each its own.
allow_shared_uid = {"true" if settings.allow_shared_uid else "false"}
# First and last port on which keeps of tenants may listen, and whether they may connect to private addresses, among
# them what listens on this host alone. Keeps of operators may what their spec says.
listen_ports = [{settings.tenant_network.listen_ports[0]}, {settings.tenant_network.listen_ports[1]}]
private_egress = {"true" if settings.tenant_network.private_egress else "false"}
# Device or UNIX socket of the TPM 2.0 by which keeps attest. Without it /dev/tpmrm0, where there is one.
{f'tpm = "{settings.tpm}"' if settings.tpm else '# tpm = "/dev/tpmrm0"'}

# Keeps that are virtual machines. Where things are, if not where Debian puts them; docs/backends.md has all keys.
[machines]
# The guest image that `keep-manager image build` makes.
# image = "/srv/wasmkeep/image"
# qemu = "/usr/bin/qemu-system-x86_64"

# With this table the manager looks at its keeps' evidence again and again; see docs/operating.md.
# [watch]
# interval = 300
# failures = 2
# action = "warn"
# policy = "watch.toml"
'''
    write_private(home.settings_file, text.encode())


def write_private(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Replace a file by one that is whole, on disk, and never readable by more than `mode` says."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def is_domain(text: str) -> bool:
    """Whether `text` can be a trust domain: a lower-case DNS name."""
    return len(text) <= 200 and _DOMAIN.fullmatch(text) is not None


def _settings(document: dict[str, Any], folder: Path) -> Settings:
    _refuse_unknown(document, "")
    endpoints = _table(document, "endpoints")
    keeps = _table(document, "keeps")
    domain = _text(document, "domain")
    if not is_domain(domain):
        raise ConfigurationError(f"`domain` is {domain!r}, not a lower-case DNS name")
    deployment = _text(document, "deployment")
    if not is_deployment_id(deployment):
        raise ConfigurationError(f"`deployment` is {deployment!r}, not the 8 hex digits that `init` wrote")
    systemd = _text(document, "systemd", "auto")
    if systemd not in SUPERVISOR_KINDS:
        raise ConfigurationError(f"`systemd` is {systemd!r}, not one of {', '.join(SUPERVISOR_KINDS)}")
    hosts = document.get("hosts", [])
    if not isinstance(hosts, list) or not all(isinstance(host, str) and host for host in hosts):
        raise ConfigurationError("`hosts` is not a list of names and addresses")
    tpm = _text(keeps, "tpm", "")
    if tpm and not tpm.startswith("/"):
        raise ConfigurationError(f"`keeps.tpm` is {tpm!r}, not the absolute path of a device or socket")
    return Settings(
        domain=domain,
        deployment=deployment,
        listen=parse_address(_text(document, "listen", DEFAULT_LISTEN)),
        hosts=tuple(hosts),
        systemd=systemd,
        endpoint_address=parse_endpoint_address(_text(endpoints, "address", DEFAULT_ENDPOINT_ADDRESS)),
        endpoint_ports=_ports(endpoints, "endpoints", "ports"),
        allow_shared_uid=_boolean(keeps, "allow_shared_uid"),
        tpm=Path(tpm) if tpm else None,
        machines=parse_machines(_table(document, "machines")),
        watch=read_watch(_table(document, "watch"), folder),
        tenant_network=TenantNetwork(
            listen_ports=_ports(keeps, "keeps", "listen_ports") or DEFAULT_LISTEN_PORTS,
            private_egress=_boolean(keeps, "private_egress"),
        ),
    )


def parse_endpoint_address(text: str) -> str:
    """The address of keeps, which clients are told: so not a wildcard. Raises `ConfigurationError`."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ConfigurationError(f"`endpoints.address` is {text!r}, not an IP address") from None
    if address.is_unspecified:
        raise ConfigurationError(f"`endpoints.address` is {text}: name the address that clients connect to")
    return str(address)


def _boolean(keeps: dict[str, Any], key: str) -> bool:
    value = keeps.get(key, False)
    if not isinstance(value, bool):
        raise ConfigurationError(f"`keeps.{key}` is neither true nor false")
    return value


def _ports(table: dict[str, Any], name: str, key: str) -> tuple[int, int] | None:
    value = table.get(key)
    if value is None:
        return None
    if isinstance(value, list) and len(value) == 2 and all(type(port) is int for port in value):
        first, last = value
        if 1 <= first <= last <= 65535:
            return first, last
    raise ConfigurationError(f"`{name}.{key}` is not [FIRST, LAST] with 1 <= FIRST <= LAST <= 65535")


def _text(table: dict[str, Any], key: str, default: str | None = None) -> str:
    value = table.get(key, default)
    if not isinstance(value, str):
        raise ConfigurationError(f"`{key}` is missing or not a string")
    return value


def _table(document: dict[str, Any], key: str) -> dict[str, Any]:
    table = document.get(key, {})
    if not isinstance(table, dict):
        raise ConfigurationError(f"`{key}` is not a table: write `[{key}]`")
    _refuse_unknown(table, key)
    return table


def _refuse_unknown(table: dict[str, Any], name: str) -> None:
    if unknown := sorted(table.keys() - _KEYS[name]):
        where = f"[{name}]" if name else "the top level"
        raise ConfigurationError(f"unknown key `{unknown[0]}` in {where}; known are {', '.join(sorted(_KEYS[name]))}")
