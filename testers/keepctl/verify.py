"""`keepctl verify`: evidence from a file or folder, judged without asking anybody."""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from keep_client import InvalidArgumentError
from keep_protocol.evidence import EvidenceKind
from testers.deployment import error_line, printable
from testers.keepctl.command import add_command, add_policy_option
from testers.keepctl.console import say, show_json
from testers.keepctl.quantities import whole_duration

if TYPE_CHECKING:
    from keep_attestation.ratls.policy import CertificatePolicy
    from testers.keepctl.command import Subparsers

REFUSED = 1
USAGE = 2

_DETAILS = """\
EVIDENCE is an SNP report, a TDX or SGX quote, a Nitro document, the folder of a TPM quote or of an Azure VM, a keep's
collection (keepctl attest -o), or a certificate or request that holds evidence; binary, hex, base64 or PEM. What it is
shows in its bytes. Certificates, CRLs, collateral and logs that lie beside it are used where they fit.

Nothing is fetched unless --fetch says so. Without --policy nothing is accepted: the checks that need none are shown,
and the facts, of which `keepctl policy init --from EVIDENCE` makes a policy.

Exit status: 0 accepted, 1 refused, 2 when the command line or a file cannot be used. docs/attestation.md explains every
check."""


def register(subparsers: Subparsers) -> None:
    """Declare this command."""
    verify = add_command(
        subparsers,
        "verify",
        "judge evidence from a file, offline",
        _verify,
        examples=(
            "keepctl verify report.bin --policy production.toml",
            "keepctl verify quote.bin --collateral collateral.json --at 2026-03-01 --policy p.toml --json",
            "keepctl verify cert.pem --convention gramine --policy p.toml",
        ),
        details=_DETAILS,
    )
    verify.add_argument("evidence", metavar="EVIDENCE", type=Path, help="file or folder")
    add_policy_option(verify)
    verify.add_argument(
        "--kind", choices=[each.value for each in EvidenceKind], help="what it is, instead of what it looks like"
    )
    verify.add_argument(
        "--endorsements", metavar="FILE|DIR", type=Path, action="append", default=[], help="certificates and CRLs"
    )
    verify.add_argument("--collateral", metavar="FILE", type=Path, help="Intel's, from dcap-qvl, its QvL or the PCS")
    verify.add_argument(
        "--fetch", action="store_true", help="ask AMD's or Intel's service for what is not there; it learns the chip"
    )
    verify.add_argument("--log", metavar="FILE", type=Path, help="the TCG event log (CCEL)")
    verify.add_argument("--at", metavar="TIME", help="judge as of this time, such as 2026-03-01T12:00:00Z")
    verify.add_argument(
        "--convention",
        metavar="NAME",
        action="append",
        default=[],
        help="accept certificates by this convention too, such as tcg-dice, gramine, enarx, dstack",
    )
    verify.add_argument(
        "--max-lifetime", metavar="TIME", type=whole_duration, help="of a certificate (default: 24h), such as 365d"
    )
    verify.add_argument("--spec", metavar="DIGEST", type=_octets, help="the keep must be started from this spec")
    bound = verify.add_mutually_exclusive_group()
    bound.add_argument("--nonce", metavar="HEX", type=_octets, help="TPM, Azure, Nitro, collections: what it must hold")
    bound.add_argument("--report-data", metavar="HEX", type=_octets, help="SNP, TDX, SGX: the same, zeros behind it")
    verify.set_defaults(failure=USAGE)


def _verify(options: argparse.Namespace) -> int:
    from keep_attestation.endorsement_sources.manufacturers import manufacturer_sources
    from keep_attestation.errors import AttestationError, ClockError
    from keep_attestation.evidence_files.reading import read_evidence
    from keep_attestation.policy import load_policy
    from keep_attestation.trusted_time import TimeFloor
    from testers.keepctl.attestation.offline import Demands, NoPolicy, judge, moment
    from testers.keepctl.attestation.verdict_document import verdict_document
    from testers.keepctl.attestation.verdict_text import verdict_lines

    try:
        floor = TimeFloor(_cache() / "time-floor")
        at = floor.now() if options.at is None else moment(options.at)
    except ClockError as error:
        raise InvalidArgumentError(f"{error}, or say with --at when to judge") from None
    except (ValueError, OverflowError, OSError):
        raise InvalidArgumentError(f"--at {options.at} is no time: write it as 2026-03-01T12:00:00Z") from None
    try:
        policy = NoPolicy() if options.policy is None else load_policy(options.policy)
        certificates = _certificate_policy(options, policy.certificate)
        file = read_evidence(
            options.evidence,
            kind=None if options.kind is None else EvidenceKind(options.kind),
            accept=certificates.accept,
            nonce=options.nonce,
            endorsements=options.endorsements,
            collateral=options.collateral,
            log=options.log,
            at=at,
        )
        demands = Demands(options.nonce, options.report_data, options.spec)
        sources = manufacturer_sources(_cache()) if options.fetch else ()
        judgement = judge(file, policy, certificates, demands, at, sources)
        if options.at is None:
            floor.learn(judgement.verdict)
    except AttestationError as error:
        hint = "; --convention NAME accepts it" if "convention" in str(error) else ""
        say(f"{error_line(error)}{hint}")
        return USAGE
    if options.json:
        show_json({**verdict_document(judgement.verdict, judgement.claims), "files": [str(path) for path in file.used]})
    else:
        for line in verdict_lines(judgement.verdict, files=file.used, claims=judgement.claims):
            print(line)
    if options.policy is None:
        init = ("keepctl", "policy", "init", "--from", str(options.evidence))
        say(f"nothing is accepted without a policy: `{printable(shlex.join(init))}` writes one")
    return 0 if judgement.verdict.accepted else REFUSED


def _cache() -> Path:
    """Where answers of the manufacturers' services are kept (XDG Base Directory Specification)."""
    folder = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(folder) / "wasmkeep" / "endorsements"


def _certificate_policy(options: argparse.Namespace, base: CertificatePolicy) -> CertificatePolicy:
    """What the policy demands of certificates, with what the command line names besides."""
    from msgspec.structs import replace

    from keep_attestation.ratls.presentation import Convention

    try:
        accept = frozenset(map(Convention, options.convention)) | base.accept
        lifetime = base.max_lifetime_hours if options.max_lifetime is None else max(1, -(-options.max_lifetime // 3600))
        return replace(base, accept=accept, max_lifetime_hours=lifetime)
    except ValueError as error:
        known = ", ".join(Convention)
        raise InvalidArgumentError(f"--convention: {error}; known are {known}") from None


def _octets(text: str) -> bytes:
    try:
        return bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not hex") from None
