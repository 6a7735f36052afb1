"""Makes a new home: directories, configuration, certificates, the first operator's key."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec

from keep_manager.addresses import host_names, is_host
from keep_manager.config import Home, Settings, is_domain, write_settings
from keep_manager.errors import ConfigurationError
from keep_manager.issued import create_index, register
from keep_manager.pki import (
    PkiPaths,
    create_authority,
    issue_client,
    issue_server,
    spiffe_id,
    write_certificate,
)
from keep_manager.roles import write_first_roles

FIRST_OPERATOR = "operator"


def initialise(home: Home, settings: Settings) -> None:
    """Create a home. Raises `ConfigurationError` when it is one already or a value is wrong.

    The settings file is written last: without it the home does not count, and `init` starts over.
    """
    if home.settings_file.exists():
        raise ConfigurationError(f"{home.path} is a home already; choose another, or remove it to start over")
    if not is_domain(settings.domain):
        raise ConfigurationError(f"the domain {settings.domain!r} is not a lower-case DNS name")
    for host in settings.hosts:
        if not is_host(host):
            raise ConfigurationError(f"--host {host!r} is neither a DNS name nor an IP address")
    for folder in (home.path, home.config, home.pki, home.state):
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise ConfigurationError(f"{folder} cannot be made: {error.strerror}") from None
    paths = PkiPaths(home.pki)
    clients = create_authority(f"{settings.deployment} clients")
    servers = create_authority(f"{settings.deployment} manager")
    write_certificate(paths.client_ca, clients.certificate, clients.key)
    write_certificate(paths.server_ca, servers.certificate, servers.key)
    write_certificate(paths.server, *issue_server(servers, dict.fromkeys((*settings.hosts, *host_names()))))
    create_index(paths, clients)
    operator_key = ec.generate_private_key(ec.SECP256R1())
    operator = issue_client(clients, operator_key.public_key(), name=FIRST_OPERATOR, domain=settings.domain)
    identity = spiffe_id(settings.domain, FIRST_OPERATOR)
    register(paths, operator, FIRST_OPERATOR, identity)
    write_certificate(paths.operator, operator, operator_key)
    write_first_roles(home.roles_file, identity)
    write_settings(home, settings)
