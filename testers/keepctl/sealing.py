"""`keepctl seal|unseal`: data that only the same keep, or the same kind of keep, can open again."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from keep_client import InvalidArgumentError
from keep_protocol.sealing_api import MAX_SEALED_DATA, CounterSource, KeyKind, SealingKey, Selector
from testers.deployment import Deployment
from testers.keepctl.command import add_command, add_policy_option
from testers.keepctl.connecting import open_keep
from testers.keepctl.console import say, show_json
from testers.keepctl.named_choices import word_of
from testers.keepctl.option_words import fields_as_options
from testers.keepctl.quantities import size_text

if TYPE_CHECKING:
    from testers.keepctl.command import Subparsers

STANDARD_STREAM = "-"
_LARGEST_ENVELOPE = MAX_SEALED_DATA + 4096
_SEAL_OPTIONS = {"counter": "--counter", "bind": "--bind", "purpose": "--purpose"}
_UNSEAL_OPTIONS = {"expected_counter": "--counter", "allow_rollback": "--allow-rollback", "purpose": "--purpose"}


def register(subparsers: Subparsers) -> None:
    """Declare these commands."""
    seal = add_command(
        subparsers,
        "seal",
        "let a keep seal data with its key",
        _seal,
        examples=("keepctl seal prices state.bin state.sealed --purpose state --counter 7",),
        details="What the envelope is bound to depends on the keep: on hardware to chip, code and keep, elsewhere to\n"
        "the keep by a key of its host. A counter that grows each time shows later which envelope is the latest;\n"
        "without --counter a keep that proves itself by a TPM lets that count.",
    )
    _add_files(seal)
    seal.add_argument("--purpose", required=True, help="what the data is for; part of the key")
    seal.add_argument("--counter", metavar="N", type=_counter, help="higher than that of earlier data")
    seal.add_argument(
        "--bind",
        metavar="WHAT",
        type=word_of(Selector),
        action="append",
        default=[],
        choices=tuple(Selector),
        help="bind to it",
    )
    unseal = add_command(
        subparsers,
        "unseal",
        "let a keep open what it has sealed",
        _unseal,
        examples=(
            "keepctl unseal prices state.sealed state.bin --counter 7",
            "keepctl unseal prices config.sealed - --allow-rollback",
        ),
        details="Whoever stores envelopes can give back an older one. What a TPM has counted is opened when it is the\n"
        "latest for its purpose. For the rest name the lowest counter that is acceptable, or say with\n"
        "--allow-rollback that any age is.",
    )
    _add_files(unseal)
    unseal.add_argument("--purpose", help="what it must have been sealed for")
    unseal.add_argument("--counter", metavar="N", type=_counter, help="the lowest counter that is accepted")
    unseal.add_argument("--allow-rollback", action="store_true", help="take an envelope of any age")


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("keep", metavar="KEEP", help="id or name")
    parser.add_argument("source", metavar="FROM", help="a file; - for standard input")
    parser.add_argument("target", metavar="TO", help="a file, which is replaced; - for standard output")
    add_policy_option(parser)


def _counter(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 2**53):
        raise argparse.ArgumentTypeError(f"{text!r} is not a counter: expected a number from 0 on")
    return int(text)


def _seal(options: argparse.Namespace) -> int:
    _check_output(options)
    data = _read(options.source, MAX_SEALED_DATA)
    deployment = Deployment.from_options(options)
    with (
        deployment.connect() as manager,
        open_keep(manager, deployment, options.keep, options.policy) as keep,
        fields_as_options(_SEAL_OPTIONS),
    ):
        sealed = keep.seal(data, purpose=options.purpose, bind=options.bind, counter=options.counter)
    _write(options.target, sealed.envelope)
    document = {"key": sealed.key, "counter": sealed.counter, "counted_by": sealed.counted_by}
    _tell(options, msgspec.to_builtins(document), sealed.key)
    if not options.json and sealed.counted_by is CounterSource.TPM:
        say(f"the TPM counted it: {sealed.counter}; what was sealed for {options.purpose} before is too old now")
    return 0


def _unseal(options: argparse.Namespace) -> int:
    _check_output(options)
    envelope = _read(options.source, _LARGEST_ENVELOPE)
    deployment = Deployment.from_options(options)
    with (
        deployment.connect() as manager,
        open_keep(manager, deployment, options.keep, options.policy) as keep,
        fields_as_options(_UNSEAL_OPTIONS),
    ):
        opened = keep.unseal(
            envelope,
            purpose=options.purpose,
            expected_counter=options.counter,
            allow_rollback=options.allow_rollback,
        )
    _write(options.target, opened.data)
    document = {"header": msgspec.to_builtins(opened.header), "rollback_protected": opened.rollback_protected}
    _tell(options, document, opened.header.key)
    if not options.json and not opened.rollback_protected:
        say("nothing proves that this is the latest that was sealed")
    return 0


def _check_output(options: argparse.Namespace) -> None:
    if options.json and options.target == STANDARD_STREAM:
        raise InvalidArgumentError("--json and the data cannot both go to standard output: name a file for the data")


def _read(source: str, limit: int) -> bytes:
    if source == STANDARD_STREAM:
        data = sys.stdin.buffer.read(limit + 1)
    else:
        with Path(source).open("rb") as file:
            data = file.read(limit + 1)
    if len(data) > limit:
        raise InvalidArgumentError(f"{source} has more than the {size_text(limit)} that are possible here")
    return data


def _write(target: str, data: bytes) -> None:
    if target == STANDARD_STREAM:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        Path(target).write_bytes(data)


def _tell(options: argparse.Namespace, document: dict[str, object], key: SealingKey) -> None:
    if options.json:
        show_json(document)
    elif key.kind is KeyKind.HOST:
        say("the key is the host's: it protects what lies on disks, and nothing against the host")
