"""`keepctl attest`: has a keep prove itself, and shows the verdict."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from keep_client import InvalidArgumentError
from keep_client.connect import check_answered_for
from keep_client.identity import write_new
from testers.deployment import Deployment
from testers.keepctl.command import add_command, add_policy_option
from testers.keepctl.console import say, show_json
from testers.keepctl.trust_store import TrustStore, policy_from_file

if TYPE_CHECKING:
    from testers.keepctl.command import Subparsers

REFUSED = 1


def register(subparsers: Subparsers) -> None:
    """Declare this command."""
    attest = add_command(
        subparsers,
        "attest",
        "have a keep prove itself on a new connection",
        _attest,
        examples=("keepctl attest prices", "keepctl attest prices --policy production.toml -o prices.cmw"),
        details="Nothing but the attestation request is sent. Without --policy the one in the trust store decides.\n"
        "Every connection uses a new nonce; -o keeps the answer for `keepctl verify` and for others.\n"
        "Exit status: 0 accepted, 1 refused.",
    )
    attest.add_argument("keep", metavar="KEEP", help="id or name")
    add_policy_option(attest)
    attest.add_argument("-o", "--output", metavar="FILE", type=Path, help="a new file for the evidence as it came")


def _attest(options: argparse.Namespace) -> int:
    from keep_attestation.ratls.peer import ExpectedKeep
    from testers.keepctl.attestation.observation import observe
    from testers.keepctl.attestation.offline import UnjudgedYet, without_policy
    from testers.keepctl.attestation.verdict_document import verdict_document
    from testers.keepctl.attestation.verdict_text import verdict_lines

    deployment = Deployment.from_options(options)
    known = TrustStore.of(deployment).find(options.keep)
    policy = None if known is None else known.load_policy()
    if options.policy is not None:
        policy = policy_from_file(options.policy)
    digest = None if known is None or known.spec_digest is None else bytes.fromhex(known.spec_digest)
    with deployment.connect() as manager:
        record = manager.get_record(options.keep if known is None else known.keep)
        check_answered_for(options.keep if known is None else known.keep, record.id)
        expected = ExpectedKeep(keep=record.id if known is None else known.keep, spec_sha256=digest)
        seen = observe(record.endpoint, manager.credentials, policy or UnjudgedYet(), expected)
    if options.output is not None:
        if seen.collection is None:
            raise InvalidArgumentError("there is no evidence to keep: the keep was refused in the handshake")
        write_new(options.output, seen.collection)
    if seen.verdict is None:
        say(f"keep {options.keep} proves nothing: {seen.refusal}")
        return REFUSED
    verdict, claims = seen.verdict.verdict, seen.verdict.claims
    if policy is None:
        verdict = without_policy(verdict)
    if options.json:
        show_json(verdict_document(verdict, claims))
    else:
        print("\n".join(verdict_lines(verdict, claims=claims)))
    if policy is None:
        say(
            f"nothing is accepted without a policy: `keepctl trust {options.keep}` pins what is there, "
            "`keepctl policy init` writes a policy"
        )
    return 0 if verdict.accepted else REFUSED
