"""From the client certificate of a connection to who is asking; nothing but the one SPIFFE URI is read."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509

from keep_protocol.errors import ErrorCode, RefusalError

_PATH = re.compile(r"(?:/[A-Za-z0-9._-]+)+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who holds a client certificate that OpenSSL has verified."""

    spiffe_id: str
    serial: int
    fingerprint: str
    """SHA-256 of the certificate, hex."""
    expires: datetime
    certificate: bytes = field(repr=False)
    """DER."""


def identity_of(certificate: bytes, domain: str) -> Identity:
    """The identity in a verified DER certificate. Raises `RefusalError` (`identity-invalid`).

    Exactly one URI SAN, in this trust domain, in the canonical form of the SPIFFE ID specification, section 2.
    """
    parsed = x509.load_der_x509_certificate(certificate)
    try:
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except x509.ExtensionNotFound:
        uris = []
    except ValueError:
        raise _refusal("its subject alternative name cannot be parsed") from None
    if len(uris) != 1:
        raise _refusal(f"it has {len(uris)} URI names, and exactly one is needed")
    prefix = f"spiffe://{domain}"
    path = uris[0].removeprefix(prefix)
    if path == uris[0] or _PATH.fullmatch(path) is None or {".", ".."} & set(path.split("/")):
        raise _refusal(f"{uris[0]!r} is not a SPIFFE id of {domain}")
    return Identity(
        spiffe_id=uris[0],
        serial=parsed.serial_number,
        fingerprint=hashlib.sha256(certificate).hexdigest(),
        expires=parsed.not_valid_after_utc,
        certificate=certificate,
    )


def _refusal(reason: str) -> RefusalError:
    return RefusalError(
        ErrorCode.IDENTITY_INVALID,
        f"the client certificate names nobody: {reason}",
        remedy="use a certificate signed by `keep-manager issue`",
    )
