"""`keepctl trust`: shows what a keep is, and pins it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from keep_client import InvalidArgumentError
from keep_client.connect import check_answered_for
from testers.deployment import Deployment
from testers.keepctl.command import add_command
from testers.keepctl.console import say, show_json
from testers.keepctl.quantities import size
from testers.keepctl.trust_store import TrustedKeep, TrustStore

if TYPE_CHECKING:
    from testers.keepctl.attestation.image_policy import ExpectedImage
    from testers.keepctl.command import Subparsers

REFUSED = 1


def register(subparsers: Subparsers) -> None:
    """Declare this command."""
    trust = add_command(
        subparsers,
        "trust",
        "look at what a keep proves, and demand just that from now on",
        _trust,
        examples=(
            "keepctl trust prices",
            "keepctl trust prices --yes --json",
            "keepctl trust prices --image /srv/image --memory 512M",
        ),
        details="What is pinned goes into the trust store, which every later command for this keep uses:\n"
        "measurements, platform and the spec's digest. Compare them with what you know: it trusts what it sees.\n"
        "What no reference value can excuse (debug, an outdated platform) is refused here too.\n"
        "With --image nothing that can be computed is taken from the keep: a keep of another image is refused.",
    )
    trust.add_argument("keep", metavar="KEEP", help="id or name")
    trust.add_argument("--yes", action="store_true", help="ask nothing")
    trust.add_argument("--image", metavar="DIR", help="the guest image that it must be (keep-manager image build)")
    trust.add_argument("--memory", type=size, metavar="SIZE", help="with --image: its machine's memory")
    trust.add_argument("--vcpus", type=int, default=1, metavar="N", help="with --image: its machine's processors")
    trust.add_argument("--firmware", metavar="FILE", help="with --image: OVMF of an snp or tdx keep")
    trust.add_argument(
        "--allow-software-tpm", action="store_true", help="with --image: its TPM may be the host's own, in software"
    )


def _trust(options: argparse.Namespace) -> int:
    from keep_attestation.ratls.peer import ExpectedKeep
    from testers.keepctl.attestation.image_policy import PolicyOfAnImage
    from testers.keepctl.attestation.observation import observe
    from testers.keepctl.attestation.reference_values import PolicyOfWhatIsThere
    from testers.keepctl.attestation.verdict_document import verdict_document
    from testers.keepctl.attestation.verdict_text import verdict_lines

    image = _expected_image(options)
    deployment = Deployment.from_options(options)
    store = TrustStore.of(deployment)
    known = store.find(options.keep)
    with deployment.connect() as manager:
        detail = manager.get_keep(options.keep if known is None else known.keep).keep
        check_answered_for(options.keep if known is None else known.keep, detail.id)
        # The spec that was asked for is known where the keep was made; elsewhere its digest is part of what is pinned.
        digest = None if known is None or known.spec_digest is None else bytes.fromhex(known.spec_digest)
        expected = ExpectedKeep(keep=detail.id if known is None else known.keep, spec_sha256=digest)
        policy: PolicyOfWhatIsThere = PolicyOfWhatIsThere(name="what is there")
        if image is not None:
            kind = detail.evidence if known is None or known.evidence is None else known.evidence
            tables = image.tables(kind, None if digest is None else digest.hex())
            policy = PolicyOfAnImage(name="image", image=tables, allow_software_tpm=image.allow_software_tpm)
        seen = observe(detail.endpoint, manager.credentials, policy, expected)
    if seen.verdict is None:
        say(f"keep {options.keep} cannot be trusted: {seen.refusal}")
        return REFUSED
    verdict, claims = seen.verdict.verdict, seen.verdict.claims
    if not options.json:
        print("\n".join(verdict_lines(verdict, claims=claims)))
    if not verdict.accepted or claims is None:
        if options.json:
            show_json(verdict_document(verdict, claims))
        say("nothing was pinned; for evidence that you accept all the same write a policy (`keepctl policy init`)")
        return REFUSED
    if known is not None and known.policy is not None:
        say(f"a policy for this keep is in {store.folder} already; what is pinned now takes its place")
    if not options.yes and not _confirmed():
        say("nothing was pinned")
        return REFUSED
    if known is not None and known.evidence not in (None, verdict.kind):
        say(
            f"keep {options.keep} was made to prove itself with {known.evidence} evidence and shows {verdict.kind}: "
            "refused"
        )
        return REFUSED
    # A name is the manager's to give, so what the user called the keep by counts more.
    name = detail.name if options.keep == claims.keep else options.keep
    if (other := store.named(name)) is not None and other.keep != claims.keep:
        say(f"{name!a} is the name of keep {other.keep} in the trust store: refused")
        return REFUSED
    table = policy.demanded(verdict.kind, verdict.facts)
    path = store.write(
        TrustedKeep(
            keep=claims.keep,
            name=name,
            evidence=verdict.kind,
            spec_digest=claims.spec_sha256.hex(),
            policy={"name": f"keep {claims.keep}", verdict.kind.value: table},
        )
    )
    if options.json:
        show_json({**verdict_document(verdict, claims), "pinned": str(path)})
    else:
        print(f"\npinned in {path}")
    return 0


def _expected_image(options: argparse.Namespace) -> ExpectedImage | None:
    if options.image is None:
        return None
    if options.memory is None:
        raise InvalidArgumentError("--image needs --memory SIZE, its machine's memory, such as 512M")
    from testers.keepctl.attestation.image_policy import ExpectedImage

    return ExpectedImage(
        folder=Path(options.image),
        memory=options.memory,
        vcpus=options.vcpus,
        firmware=Path(options.firmware) if options.firmware else None,
        allow_software_tpm=options.allow_software_tpm,
    )


def _confirmed() -> bool:
    if not sys.stdin.isatty():
        raise InvalidArgumentError("nobody can be asked: look at the facts above, and give --yes")
    return input("\nDemand just this of the keep from now on? [y/N] ").strip().lower() in ("y", "yes")
