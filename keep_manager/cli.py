"""`keep-manager`: sets up a home, serves it, signs and revokes certificates, installs units."""

from __future__ import annotations

import argparse
import datetime
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from keep_image.cli import add_image_commands
from keep_image.errors import ImageError
from keep_manager.config import (
    DEFAULT_DOMAIN,
    DEFAULT_ENDPOINT_ADDRESS,
    DEFAULT_LISTEN,
    SUPERVISOR_KINDS,
    Home,
    Settings,
    load_settings,
    parse_address,
    parse_endpoint_address,
)
from keep_manager.errors import ConfigurationError, ManagerError
from keep_manager.roles import Quota, add_identity, parse_size
from keep_protocol import __version__
from keep_protocol.manager_api import Check
from keep_protocol.names import new_deployment_id
from keep_protocol.states import ManagerRole

HOME_VARIABLE = "WASMKEEP_HOME"

_EXAMPLES = """\
examples:
  keep-manager init --home /srv/wasmkeep --host keeps.example.org
  keep-manager serve --home /srv/wasmkeep --listen 0.0.0.0:7443
  keep-manager issue alice --csr alice.csr --out alice.pem \\
      --role tenant --max-keeps 4 --max-memory 4G --max-disk 20G
  keep-manager revoke alice
  keep-manager down --home /srv/wasmkeep
"""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Entry point. Exit status: 0 done, 1 refused or failed, 2 wrong usage."""
    options = _parser().parse_args(arguments)
    try:
        command: Callable[[argparse.Namespace], int] = options.command
        sys.exit(command(options))
    except (ManagerError, ImageError) as error:
        print(f"keep-manager: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _init(options: argparse.Namespace) -> int:
    from keep_manager.initialise import FIRST_OPERATOR, initialise
    from keep_manager.pki import PkiPaths, spiffe_id

    home = _home(options)
    settings = Settings(
        domain=options.domain,
        deployment=new_deployment_id(),
        listen=parse_address(options.listen),
        hosts=tuple(dict.fromkeys(options.host)),
        systemd=options.systemd,
        endpoint_address=parse_endpoint_address(options.endpoint_address),
        endpoint_ports=_port_range(options.endpoint_ports),
        allow_shared_uid=options.allow_shared_uid,
    )
    initialise(home, settings)
    paths = PkiPaths(home.pki)
    print(f"home:      {home.path}")
    print(f"operator:  {paths.operator} ({spiffe_id(settings.domain, FIRST_OPERATOR)})")
    print(f"server CA: {paths.server_ca}")
    print(f"next:      keep-manager serve --home {options.home}")
    return 0


def _serve(options: argparse.Namespace) -> int:
    from keep_manager.logs import configure_logging
    from keep_manager.server import serve
    from keep_manager.supervisor.choose import choose_supervisor

    home = _home(options)
    settings = load_settings(home)
    listen = parse_address(options.listen) if options.listen else settings.listen
    kind = options.systemd or settings.systemd
    configure_logging(options.log_level)
    serve(home, settings, listen, lambda: choose_supervisor(kind, home.path, settings.deployment))
    return 0


def _down(options: argparse.Namespace) -> int:
    from keep_manager.shutdown import take_down

    home = _home(options)
    for line in take_down(home, load_settings(home)):
        print(line)
    return 0


def _issue(options: argparse.Namespace) -> int:
    from cryptography.hazmat.primitives import serialization

    from keep_manager.issued import register
    from keep_manager.pki import (
        IDENTITY_NAME,
        IDENTITY_NAME_RULE,
        MAX_CLIENT_LIFETIME,
        PkiPaths,
        issue_client,
        load_authority,
        request_key,
        spiffe_id,
    )

    home = _home(options)
    settings = load_settings(home)
    if IDENTITY_NAME.fullmatch(options.name) is None:
        raise ConfigurationError(f"{options.name!r} cannot name an identity: use {IDENTITY_NAME_RULE}")
    if not 1 <= options.days <= MAX_CLIENT_LIFETIME.days:
        raise ConfigurationError(f"--days {options.days} is not from 1 to {MAX_CLIENT_LIFETIME.days}")
    quota = _quota(options)
    public_key = request_key(_read_request(options.csr))
    paths = PkiPaths(home.pki)
    identity = spiffe_id(settings.domain, options.name)
    if options.role:
        add_identity(home.roles_file, identity, [ManagerRole(role) for role in options.role], quota)
    certificate = issue_client(
        load_authority(paths.client_ca),
        public_key,
        name=options.name,
        domain=settings.domain,
        lifetime=datetime.timedelta(days=options.days),
    )
    register(paths, certificate, options.name, identity)
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    if options.out == "-":
        sys.stdout.write(pem.decode())
    else:
        Path(options.out).write_bytes(pem)
        print(f"{options.out}: {identity}, valid until {certificate.not_valid_after_utc:%Y-%m-%d}")
    return 0


def _revoke(options: argparse.Namespace) -> int:
    from keep_manager.issued import revoke
    from keep_manager.pki import PkiPaths

    home = _home(options)
    load_settings(home)
    revoked = revoke(PkiPaths(home.pki), options.name)
    if not revoked:
        raise ConfigurationError(
            f"no valid certificate of {options.name!r} was issued here; see config/pki/issued.json"
        )
    for entry in revoked:
        print(f"revoked {entry.serial} of {entry.spiffe_id}")
    return 0


def _rotate_sealing_key(options: argparse.Namespace) -> int:
    from keep_manager.sealing_keys import SealingKeys

    home = _home(options)
    load_settings(home)
    if not (home.sealing_keys / options.keep).is_file():
        raise ConfigurationError(f"no keep {options.keep!r} has a sealing key here; give the id of a keep")
    keys = SealingKeys(home.sealing_keys).rotate(options.keep)
    print(f"{options.keep} seals with a new key after its next stop and start, and unseals with {len(keys)}")
    return 0


def _install(options: argparse.Namespace) -> int:
    from keep_manager.supervisor.install import install, uninstall

    home = _home(options)
    load_settings(home)
    act = uninstall if options.remove else install
    for path in act(options.systemd, home.path):
        print(path)
    return 0


def _template(options: argparse.Namespace) -> int:
    from keep_manager.machines.settings import MachineSettings
    from keep_manager.machines.template_command import make, remove
    from keep_protocol.machine import guest_processors
    from keep_protocol.spec import DEFAULT_LIMITS

    settings = load_settings(_home(options)).machines if options.home else MachineSettings()
    if options.remove:
        for name in remove(settings):
            print(f"removed {name}")
        return 0
    memory = parse_size(options.memory) if options.memory else DEFAULT_LIMITS.memory
    processors = guest_processors(DEFAULT_LIMITS) if options.vcpus is None else options.vcpus
    if processors < 1:
        raise ConfigurationError(f"--vcpus {processors} is no number of processors")
    started = time.monotonic()
    folder = make(settings, memory, processors)
    size = sum(path.stat().st_blocks * 512 for path in folder.iterdir())
    print(f"template:  {folder}, {size / 1e6:.0f} MB, made in {time.monotonic() - started:.1f} s")
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from keep_manager.doctor import examine, options

    checks = examine(_home(arguments))
    for check in checks:
        _print_check("ok  " if check.passed else "FAIL", check)
    # What a host may well lack: said, and no fault.
    for option in options(_home(arguments)):
        print(f"\n{'ok  ' if option.available else '--  '}  {option.name}")
        for check in option.checks:
            _print_check("  ok" if check.passed else "  --", check)
    return 0 if all(check.passed for check in checks) else 1


def _print_check(mark: str, check: Check) -> None:
    print(f"{mark}  {check.name:<18} {check.info if check.passed else check.message}".rstrip())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="keep-manager",
        description="Manages sealed places for WebAssembly workloads on this host.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"keep-manager {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    init = _command(commands, "init", _init, "make a home: configuration, certificates, the first operator's key")
    init.add_argument("--host", action="append", default=[], metavar="NAME", help="name or address clients use; repeat")
    init.add_argument("--domain", default=DEFAULT_DOMAIN, help="trust domain of the identities (%(default)s)")
    init.add_argument("--listen", default=DEFAULT_LISTEN, metavar="ADDR:PORT", help="manager's address (%(default)s)")
    init.add_argument(
        "--endpoint-address", default=DEFAULT_ENDPOINT_ADDRESS, metavar="ADDR", help="keeps' address (%(default)s)"
    )
    init.add_argument("--endpoint-ports", metavar="FIRST-LAST", help="keeps' ports (default: the kernel chooses)")
    init.add_argument("--systemd", choices=SUPERVISOR_KINDS, default="auto", help="supervisor of keeps (%(default)s)")
    init.add_argument("--allow-shared-uid", action="store_true", help="let keeps of several owners share a user")

    serve = _command(commands, "serve", _serve, "serve a home until SIGTERM; keeps live on")
    serve.add_argument("--listen", metavar="ADDR:PORT", help="instead of the configured address; port 0: any")
    serve.add_argument("--systemd", choices=SUPERVISOR_KINDS, help="instead of the configured supervisor")
    serve.add_argument("--log-level", choices=("DEBUG", "INFO", "WARNING", "ERROR"), default="INFO")

    _command(commands, "down", _down, "end the manager, its keeps and the private systemd; `serve` brings keeps back")

    issue = _command(commands, "issue", _issue, "sign a client certificate for a request")
    issue.add_argument("name", metavar="NAME", help="the identity is spiffe://DOMAIN/user/NAME")
    issue.add_argument("--csr", required=True, metavar="FILE", help="request in PEM, - for standard input")
    issue.add_argument("--out", default="-", metavar="FILE", help="where to write the certificate (standard output)")
    issue.add_argument("--days", type=int, default=90, help="validity (%(default)s)")
    issue.add_argument("--role", action="append", choices=[*ManagerRole], help="also enter it into roles.toml; repeat")
    issue.add_argument("--max-keeps", type=int, metavar="N", help="quota of a tenant")
    issue.add_argument("--max-memory", metavar="SIZE", help="quota of a tenant, such as 4G")
    issue.add_argument("--max-disk", metavar="SIZE", help="quota of a tenant, such as 20G")

    revoke = _command(commands, "revoke", _revoke, "revoke every certificate of an identity, in force at once")
    revoke.add_argument("name", metavar="NAME")

    rotate = _command(commands, "rotate-sealing-key", _rotate_sealing_key, "let a keep seal with a new host key")
    rotate.add_argument("keep", metavar="KEEP-ID")

    install = _command(commands, "install", _install, "put the unit files where systemd reads them")
    install.add_argument("--systemd", choices=("system", "user"), default="system", help="which (%(default)s)")
    install.add_argument("--remove", action="store_true", help="take the unit files away again")

    _command(commands, "doctor", _doctor, "check the home and what this host can do")
    images = add_image_commands(commands)
    template = _command(images, "template", _template, "boot the image once, for `qemu` keeps that are clones of it")
    template.add_argument("--memory", metavar="SIZE", help="of the keeps, such as 512M (default: that of a spec)")
    template.add_argument(
        "--vcpus", type=int, metavar="N", help="of the keeps, one for each 100 %% of `cpu` (likewise)"
    )
    template.add_argument("--remove", action="store_true", help="remove all templates of the image instead")
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    act: Callable[[argparse.Namespace], int],
    summary: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=summary, description=summary.capitalize() + ".")
    parser.add_argument(
        "--home", default=os.environ.get(HOME_VARIABLE), metavar="DIR", help=f"the deployment's home (${HOME_VARIABLE})"
    )
    parser.set_defaults(command=act)
    return parser


def _home(options: argparse.Namespace) -> Home:
    if not options.home:
        raise ConfigurationError(f"which home? give --home DIR, or set {HOME_VARIABLE}")
    return Home(Path(options.home).absolute())


def _port_range(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, _, last = text.partition("-")
    if first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last) <= 65535:
        return int(first), int(last)
    raise ConfigurationError(f"--endpoint-ports {text!r} is not FIRST-LAST, such as 20000-20999")


def _quota(options: argparse.Namespace) -> Quota | None:
    given = (options.max_keeps, options.max_memory, options.max_disk)
    if ManagerRole.TENANT not in (options.role or ()):
        if any(value is not None for value in given):
            raise ConfigurationError("--max-keeps, --max-memory and --max-disk go with --role tenant")
        return None
    if options.max_keeps is None or options.max_memory is None or options.max_disk is None:
        raise ConfigurationError("--role tenant needs --max-keeps, --max-memory and --max-disk")
    if options.max_keeps < 0:
        raise ConfigurationError(f"--max-keeps {options.max_keeps} is not a number of keeps")
    return Quota(options.max_keeps, parse_size(options.max_memory), parse_size(options.max_disk))


def _read_request(source: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"--csr {source}: {error.strerror}") from None


if __name__ == "__main__":
    main()
