"""`keepctl identity new`: a key of one's own, and what others need to let its holder in."""

from __future__ import annotations

import argparse
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from keep_client import InvalidArgumentError
from keep_client.identity import check_spiffe_id, key_pem, new_key, request_pem, self_signed_pem, write_new
from keep_client.specs import load_certificate, spiffe_id_of
from testers.deployment import Deployment, read_pem
from testers.keepctl.command import add_command
from testers.keepctl.console import show_json
from testers.keepctl.quantities import whole_duration

if TYPE_CHECKING:
    from testers.keepctl.command import Subparsers


def register(subparsers: Subparsers) -> None:
    """Declare these commands."""
    identity = subparsers.add_parser("identity", help="make an identity", description="Make an identity.")
    actions = identity.add_subparsers(required=True, metavar="COMMAND")
    new = add_command(
        actions,
        "new",
        "make a private key and a request for a certificate",
        _new,
        examples=(
            "keepctl identity new alice --domain example.org",
            "keepctl identity new spiffe://example.org/service/etl --out keys",
            "keepctl identity new alice --domain example.org --self-signed",
        ),
        details="The key never leaves this machine: the operator signs NAME.csr with `keep-manager issue`. With\n"
        "--self-signed there is no CA: whoever makes a keep names this very certificate in its spec (--allow).",
    )
    new.add_argument("name", metavar="NAME", help="a name, or a whole SPIFFE id")
    new.add_argument("--domain", help="trust domain for a name (default: that of your own certificate)")
    new.add_argument("--self-signed", action="store_true", help="a certificate instead of a request")
    new.add_argument(
        "--lifetime",
        metavar="TIME",
        type=whole_duration,
        default=90 * 86400,
        help="of a self-signed one (default: 90d)",
    )
    new.add_argument("--out", metavar="DIR", type=Path, default=Path(), help="folder for the files (default: here)")


def _new(options: argparse.Namespace) -> int:
    spiffe_id = _spiffe_id(options)
    name = spiffe_id.rpartition("/")[2]
    key = new_key()
    if options.self_signed:
        public = options.out / f"{name}.pem"
        content = self_signed_pem(key, spiffe_id, lifetime=timedelta(seconds=options.lifetime))
        advice = f"name it in the specs of keeps: keepctl create --allow ROLE={public}"
    else:
        public = options.out / f"{name}.csr"
        content = request_pem(key, spiffe_id)
        advice = f"have it signed by the operator: keep-manager issue {name} --csr {public}"
    private = options.out / f"{name}.key"
    if public.exists():
        raise InvalidArgumentError(f"{public} exists already: remove it, or choose another name")
    write_new(private, key_pem(key), private=True)
    write_new(public, content)
    if options.json:
        kind = "certificate" if options.self_signed else "request"
        show_json({"spiffe_id": spiffe_id, "key": str(private), kind: str(public)})
    else:
        print(f"{spiffe_id}\n{private} is your private key: keep it\n{public}: {advice}")
    return 0


def _spiffe_id(options: argparse.Namespace) -> str:
    if options.name.startswith("spiffe://"):
        return check_spiffe_id(options.name)
    domain = options.domain or _own_domain(Deployment.from_options(options))
    return check_spiffe_id(f"spiffe://{domain}/user/{options.name}")


def _own_domain(deployment: Deployment) -> str:
    if deployment.home is None and deployment.certificate is None:
        raise InvalidArgumentError("the trust domain is not known: give --domain, --home or a whole SPIFFE id")
    own = spiffe_id_of(load_certificate(read_pem(deployment.credentials().certificate)))
    return own.removeprefix("spiffe://").partition("/")[0]
