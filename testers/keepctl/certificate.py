"""`keepctl cert`: a keep's certificate, and the evidence in it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from keep_client import InvalidArgumentError
from testers.deployment import Deployment
from testers.keepctl.command import add_command
from testers.keepctl.console import show_fields, show_json

if TYPE_CHECKING:
    from testers.keepctl.command import Subparsers


def register(subparsers: Subparsers) -> None:
    """Declare this command."""
    cert = add_command(
        subparsers,
        "cert",
        "show a keep's certificate and the evidence in it",
        _cert,
        examples=("keepctl cert prices", "keepctl cert prices --pem > prices.pem"),
        details="It is the certificate that the manager names; the keep is not asked, and nothing is verified:\n"
        "`keepctl verify` judges the PEM file, `keepctl attest` the keep.",
    )
    cert.add_argument("keep", metavar="KEEP", help="id or name")
    form = cert.add_mutually_exclusive_group()
    form.add_argument("--pem", action="store_true", help="as it is")
    form.add_argument("--text", action="store_true", help="explained (the default)")


def _cert(options: argparse.Namespace) -> int:
    with Deployment.from_options(options).connect() as manager:
        pem = manager.get_record(options.keep).certificate
    if options.pem:
        print(pem, end="" if pem.endswith("\n") else "\n")
        return 0
    fields = _explained(pem.encode())
    if options.json:
        show_json(fields)
    else:
        show_fields(fields)
    return 0


def _explained(pem: bytes) -> dict[str, str | None]:
    from keep_attestation.certificates import read_certificate
    from keep_attestation.errors import MalformedEvidenceError, UnsupportedEvidenceError
    from keep_attestation.ratls.certificate import read_ratls

    try:
        certificate = read_certificate(pem)
    except MalformedEvidenceError as error:
        raise InvalidArgumentError(f"the manager names a certificate that cannot be read: {error}") from None
    fields: dict[str, str | None] = {
        "subject": certificate.subject_name,
        "key": certificate.spki_sha256,
        "certificate": certificate.sha256,
        "valid": f"{certificate.not_before:%Y-%m-%dT%H:%M:%SZ} to {certificate.not_after:%Y-%m-%dT%H:%M:%SZ}",
    }
    try:
        (item,) = read_ratls(certificate.der).items
    except UnsupportedEvidenceError:
        return fields | {"evidence": "none: the keep is trusted because the manager names its key"}
    except MalformedEvidenceError as error:
        return fields | {"evidence": f"not readable: {error}"}
    evidence, claims = item.evidence, item.claims
    endorsements = evidence.endorsements
    fields |= {
        "evidence": f"{evidence.kind}, {len(evidence.body)} bytes, not verified here",
        "endorsements": f"{len(endorsements.certificates)} certificates, {len(endorsements.crls)} CRLs, "
        f"{'no' if endorsements.collateral is None else 'with'} collateral",
        "event log": "none" if evidence.log is None else f"{len(evidence.log)} bytes",
    }
    if claims is not None:
        workload = claims.workload_sha256
        fields |= {
            "claims: keep": claims.keep,
            "claims: backend": claims.backend,
            "claims: key": claims.spki_sha256.hex(),
            "claims: spec": claims.spec_sha256.hex(),
            "claims: workload": "none" if workload is None else workload.hex(),
        }
        if claims.configuration_sha256 is not None:
            fields["claims: configuration"] = claims.configuration_sha256.hex()
    return fields
