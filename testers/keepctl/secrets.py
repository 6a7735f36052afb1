"""`keepctl secret put|ls|rm`: secrets of a keep, which are never shown again."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from keep_client import InvalidArgumentError
from keep_protocol.secret_api import MAX_SECRET, SecretInfo, SecretUse, SourceInfo
from testers.deployment import Deployment, printable
from testers.keepctl.command import add_command, add_policy_option
from testers.keepctl.connecting import open_keep
from testers.keepctl.console import say, show_json, show_table
from testers.keepctl.quantities import size_text, whole_duration

if TYPE_CHECKING:
    from testers.keepctl.command import Subparsers

STANDARD_STREAM = "-"


def register(subparsers: Subparsers) -> None:
    """Declare these commands."""
    secret = subparsers.add_parser("secret", help="secrets of a keep", description="Give secrets to a keep.")
    actions = secret.add_subparsers(required=True, metavar="COMMAND")
    put = add_command(
        actions,
        "put",
        "give a keep a secret, which it holds in memory only",
        _put,
        examples=(
            "keepctl secret put prices db-password --ttl 1h < password",
            "keepctl secret put prices tls-key key.pem",
            "keepctl run --keep prices report.wasm --secret db-password=DB_PASSWORD",
        ),
        details="The value is never an argument: other users could read it there. It is taken as it is, with the\n"
        "newline at its end if there is one. The keep forgets it after --ttl, and when it is stopped or restarted.\n"
        "An older value is replaced; runs that have it keep it.",
    )
    put.add_argument("keep", metavar="KEEP", help="id or name")
    put.add_argument("name", metavar="NAME")
    put.add_argument("file", metavar="FILE", nargs="?", default=STANDARD_STREAM, help="- for standard input (default)")
    put.add_argument("--ttl", metavar="TIME", type=whole_duration, help="forget it after this time, such as 1h")
    add_policy_option(put)
    listing = add_command(
        actions,
        "ls",
        "list the secrets that a keep holds or fetches, without their values",
        _list,
        examples=("keepctl secret ls prices",),
    )
    listing.add_argument("keep", metavar="KEEP", help="id or name")
    add_policy_option(listing)
    remove = add_command(
        actions,
        "rm",
        "let a keep forget a secret; runs that have it keep it",
        _remove,
        examples=("keepctl secret rm prices db-password",),
    )
    remove.add_argument("keep", metavar="KEEP", help="id or name")
    remove.add_argument("name", metavar="NAME")
    add_policy_option(remove)


def secret_use(text: str) -> SecretUse:
    """What `run --secret` takes: `NAME`, `NAME=VARIABLE` or `NAME:/path`. Raises `argparse.ArgumentTypeError`."""
    name, separator, place = text.partition(":")
    try:
        if separator and "=" not in name:
            return SecretUse(_checked(name), file=place)
        name, separator, place = text.partition("=")
        variable = place if separator else name.upper().replace("-", "_").replace(".", "_")
        if not variable:
            raise ValueError("the variable has no name")
        return SecretUse(_checked(name), env=variable)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME, NAME=VARIABLE or NAME:/path ({error})") from None


def _checked(name: str) -> str:
    if not name:
        raise ValueError("the secret has no name")
    return name


def _put(options: argparse.Namespace) -> int:
    value = _read(options.file)
    deployment = Deployment.from_options(options)
    with deployment.connect() as manager, open_keep(manager, deployment, options.keep, options.policy) as keep:
        info = keep.put_secret(options.name, value, options.ttl)
    if options.json:
        show_json(_document(info))
    return 0


def _read(file: str) -> bytes:
    """At most one byte more than a secret may have: the keep would refuse it, and says so no better."""
    if file == STANDARD_STREAM:
        value = sys.stdin.buffer.read(MAX_SECRET + 1)
    else:
        with Path(file).open("rb") as opened:
            value = opened.read(MAX_SECRET + 1)
    if len(value) > MAX_SECRET:
        raise InvalidArgumentError(f"a secret has at most {size_text(MAX_SECRET)}")
    return value


def _list(options: argparse.Namespace) -> int:
    deployment = Deployment.from_options(options)
    with deployment.connect() as manager, open_keep(manager, deployment, options.keep, options.policy) as keep:
        listed = keep.list_secrets()
    sources = {source.name: source for source in listed.sources}
    held = {info.name: info for info in listed.secrets}
    names = sorted({*held, *sources})
    if options.json:
        show_json([_entry(name, held.get(name), sources.get(name)) for name in names])
        return 0
    show_table(
        ("NAME", "SIZE", "STORED", "EXPIRES", "FETCHED FROM"),
        [
            (
                name,
                size_text(held[name].size) if name in held else "not there",
                held[name].stored_at if name in held else "",
                (held[name].expires_at if name in held else None) or "",
                sources[name].source if name in sources else "",
            )
            for name in names
        ],
    )
    for source in listed.sources:
        if source.failure is not None:
            say(f"{printable(source.name)} cannot be fetched since {source.failed_at}: {printable(source.failure)}")
    return 0


def _remove(options: argparse.Namespace) -> int:
    deployment = Deployment.from_options(options)
    with deployment.connect() as manager, open_keep(manager, deployment, options.keep, options.policy) as keep:
        keep.delete_secret(options.name)
    return 0


def _document(info: SecretInfo) -> dict[str, object]:
    return {"name": info.name, "size": info.size, "stored_at": info.stored_at, "expires_at": info.expires_at}


def _entry(name: str, info: SecretInfo | None, source: SourceInfo | None) -> dict[str, object]:
    """A secret that the keep holds, or is still fetching, with where it is from."""
    held = dict.fromkeys(("size", "stored_at", "expires_at")) if info is None else _document(info)
    return {"name": name, **held, "source": None if source is None else msgspec.to_builtins(source)}
