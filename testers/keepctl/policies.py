"""`keepctl policy init|explain|diff`: what evidence must say to be accepted."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from keep_client import InvalidArgumentError
from keep_client.identity import write_new
from keep_protocol.evidence import EvidenceKind
from testers.deployment import printable
from testers.keepctl.command import add_command
from testers.keepctl.console import say, show_json

if TYPE_CHECKING:
    from keep_attestation.policy import Policy
    from testers.keepctl.command import Subparsers


def register(subparsers: Subparsers) -> None:
    """Declare these commands."""
    policy = subparsers.add_parser("policy", help="write and read what evidence must satisfy", allow_abbrev=False)
    actions = policy.add_subparsers(required=True, metavar="ACTION", title="actions")
    init = add_command(
        actions,
        "init",
        "write a commented policy, empty or from evidence",
        _init,
        examples=(
            "keepctl policy init snp tdx -o production.toml",
            "keepctl policy init --from report.bin -o new.toml",
        ),
        details="From evidence its measurements and platform become the reference values: look at them first with\n"
        "`keepctl verify`. A debug flag or an outdated platform in it stays refused.",
    )
    init.add_argument("kinds", metavar="KIND", nargs="*", help=f"one of {', '.join(EvidenceKind)}")
    init.add_argument("--from", dest="evidence", metavar="EVIDENCE", type=Path, help="file or folder")
    init.add_argument("--name", default=None, help="of the policy (default: that of the file)")
    init.add_argument("--at", metavar="TIME", help="judge the evidence as of this time")
    init.add_argument("--endorsements", metavar="FILE|DIR", type=Path, action="append", default=[])
    init.add_argument("--collateral", metavar="FILE|DIR", type=Path, help="Intel's, as for `keepctl verify`")
    init.add_argument("--log", metavar="FILE", type=Path, help="the event log, as for `keepctl verify`")
    init.add_argument("--convention", metavar="NAME", action="append", default=[], help="as for `keepctl verify`")
    init.add_argument("-o", "--output", metavar="FILE", type=Path, help="a new file (default: standard output)")
    explain = add_command(
        actions,
        "explain",
        "say in words what a policy demands and what it refuses",
        _explain,
        examples=("keepctl policy explain production.toml",),
    )
    explain.add_argument("file", metavar="FILE", type=Path)
    diff = add_command(
        actions,
        "diff",
        "say what the second policy accepts that the first does not, and the other way round",
        _diff,
        examples=("keepctl policy diff production.toml proposed.toml",),
        details="Exit status: 0 when the second accepts nothing more, 1 when it does or when that cannot be said.",
    )
    diff.add_argument("first", metavar="A", type=Path)
    diff.add_argument("second", metavar="B", type=Path)


def _init(options: argparse.Namespace) -> int:
    from testers.keepctl.attestation.policy_document import RECOMMENDED, policy_document

    if bool(options.kinds) == (options.evidence is not None):
        raise InvalidArgumentError(f"name kinds ({', '.join(EvidenceKind)}), or evidence with --from")
    name = options.name or (options.output.stem if options.output is not None else "unnamed")
    if options.evidence is not None:
        text = _from_evidence(options, name)
    else:
        text = policy_document(name, [(kind, RECOMMENDED[kind]) for kind in map(_kind, options.kinds)])
    if options.output is None:
        print(text, end="")
    else:
        if options.output.exists():
            raise InvalidArgumentError(f"{options.output} exists already: remove it, or choose another name")
        write_new(options.output, text.encode())
    return 0


def _from_evidence(options: argparse.Namespace, name: str) -> str:
    from keep_attestation.errors import AttestationError
    from keep_attestation.evidence_files.reading import read_evidence
    from keep_attestation.ratls.presentation import OWN_CONVENTION, Convention
    from keep_attestation.verification import examiner_of
    from testers.keepctl.attestation.offline import moment
    from testers.keepctl.attestation.policy_document import policy_document
    from testers.keepctl.attestation.reference_values import reference_values

    try:
        at = moment(options.at or "now")
        accept = frozenset(map(Convention, options.convention)) | OWN_CONVENTION
    except ValueError as error:
        raise InvalidArgumentError(f"{error}") from None
    try:
        file = read_evidence(
            options.evidence,
            endorsements=options.endorsements,
            collateral=options.collateral,
            log=options.log,
            accept=accept,
            at=at,
        )
        examination = examiner_of(file.kind)(file.evidence, binding=None, at=at)
    except AttestationError as error:
        raise InvalidArgumentError(str(error)) from None
    failures = [check for check in examination.checks if check.outcome == "fail"]
    about = f"From {options.evidence.name}, {at:%Y-%m-%d}."
    if failures:
        say("this evidence is not proven to be genuine, and neither are the values in the policy: it says why")
        words = "; ".join(f"{check.name}: {check.reason}" for check in failures)
        about += f" BEWARE: this evidence is not proven to be genuine, so neither are its values. {words}"
    values = reference_values(file.kind, examination.facts, pin=False)
    certificate = {"accept": sorted(accept)} if accept != OWN_CONVENTION else {}
    # Names of others are in it: the file must be TOML, and may be shown on a terminal.
    return policy_document(name, [(file.kind, values)], about=printable(about), certificate=certificate)


def _explain(options: argparse.Namespace) -> int:
    from testers.keepctl.attestation.policy_words import demands, explanation

    policy = _loaded(options.file)
    if options.json:
        accepted = {
            kind.value: [
                [{"check": demand.check_name, "words": demand.words} for demand in demands(alternative.rules())]
                for alternative in policy.alternatives(kind)
            ]
            for kind in sorted(policy.kinds)
        }
        certificate = msgspec.to_builtins(policy.certificate, order="deterministic")
        show_json({"name": policy.name, "digest": policy.digest, "accepted": accepted, "certificate": certificate})
    else:
        print("\n".join(explanation(policy)))
    return 0


def _diff(options: argparse.Namespace) -> int:
    from testers.keepctl.attestation.policy_words import difference

    found = difference(_loaded(options.first), _loaded(options.second))
    if options.json:
        show_json({"wider": found.wider, "narrower": found.narrower, "changed": found.changed})
    else:
        for title, lines in (
            (f"{options.second} accepts, {options.first} does not:", found.wider),
            (f"{options.first} accepts, {options.second} does not:", found.narrower),
            ("differently demanded:", found.changed),
        ):
            if lines:
                print("\n".join((title, *(f"  {line}" for line in lines))))
        if found.wider == found.narrower == found.changed == ():
            print("both accept the same")
    return 1 if found.wider or found.changed else 0


def _loaded(path: Path) -> Policy:
    from keep_attestation.errors import PolicyError
    from keep_attestation.policy import load_policy

    try:
        return load_policy(path)
    except PolicyError as error:
        raise InvalidArgumentError(str(error)) from None


def _kind(text: str) -> EvidenceKind:
    try:
        return EvidenceKind(text)
    except ValueError:
        raise InvalidArgumentError(f"{text!r} is no kind of evidence: one of {', '.join(EvidenceKind)}") from None
