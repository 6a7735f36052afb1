"""What a keep's certificate is compared with before anything is sent to it."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keep_client.errors import ImpostorError, InvalidArgumentError, KeyMismatchError, PeerRefusedError, ProtocolError
from keep_protocol.keep_api import KeepStatus
from keep_protocol.manager_api import Keep, KeepRecord


@dataclass(frozen=True, slots=True)
class KeepPin:
    """One life of one keep: the SHA-256 of its SubjectPublicKeyInfo in hex, and what it was started from.

    `invocation` and `spec_digest` are None where no manager told them.
    """

    spki_sha256: str
    invocation: str | None = None
    spec_digest: str | None = None

    @classmethod
    def from_record(cls, record: KeepRecord) -> KeepPin:
        """The pin that a manager's record amounts to. Raises `ProtocolError` when the record contradicts itself."""
        try:
            pin = cls.from_certificate(record.certificate)
        except InvalidArgumentError as error:
            raise ProtocolError(f"the manager's record of keep {record.id} is not usable: {error}") from error
        if not hmac.compare_digest(pin.spki_sha256.encode(), record.spki_sha256.encode()):
            raise ProtocolError(
                f"the manager's record of keep {record.id} contradicts itself: its certificate has the key "
                f"{pin.spki_sha256}, and it says {record.spki_sha256!a}"
            )
        return cls(pin.spki_sha256, record.invocation, record.spec_digest)

    @classmethod
    def from_keep(cls, keep: Keep) -> KeepPin:
        """The pin that a keep as its manager lists it amounts to. Raises `ProtocolError` when it is not ready."""
        if keep.certificate is None or keep.invocation is None:
            raise ProtocolError(f"keep {keep.id} is {keep.state.value} and has no certificate: start it, then connect")
        try:
            pin = cls.from_certificate(keep.certificate)
        except InvalidArgumentError as error:
            raise ProtocolError(f"the manager's entry of keep {keep.id} is not usable: {error}") from error
        return cls(pin.spki_sha256, keep.invocation, keep.spec_digest)

    @classmethod
    def from_certificate(cls, pem: str) -> KeepPin:
        """The pin for exactly the key in this certificate (PEM). Raises `InvalidArgumentError`."""
        try:
            certificate = x509.load_pem_x509_certificate(pem.encode())
            return cls(_spki_sha256(certificate))
        except (ValueError, UnsupportedAlgorithm) as error:
            raise InvalidArgumentError(f"this is not a certificate in PEM: {error}") from error

    @property
    def label(self) -> str:
        """What has been shown, once a connection stands, for people."""
        return f"has the expected key {self.spki_sha256[:16]}…"

    def succeeded_by(self, record: KeepRecord) -> KeepPin:
        """The pin for the keep's next life, for a keep that shows another key than this one.

        Raises `ImpostorError` when the manager knows of no new life, or of one with another spec.
        """
        if record.spec_digest != self.spec_digest:
            raise ImpostorError(
                f"keep {record.id} was started from the spec {self.spec_digest} and its manager now says "
                f"{record.spec_digest!a}: a spec never changes, do not use this keep"
            )
        if record.invocation == self.invocation:
            raise ImpostorError(
                f"something at {record.endpoint} shows another key than keep {record.id}, which has not been "
                "restarted: nothing was sent; tell the operator"
            )
        return KeepPin.from_record(record)

    def check_status(self, status: KeepStatus) -> None:
        """Compare what a keep says about itself with what its manager says. Raises `ProtocolError`."""
        for name, said, expected in (
            ("invocation", status.invocation, self.invocation),
            ("spec digest", status.spec_digest, self.spec_digest),
        ):
            if expected is not None and said != expected:
                raise ProtocolError(f"the keep says its {name} is {said!a}, and its manager says {expected!a}")


def check_certificate(pin: KeepPin, der: bytes) -> None:
    """Accept the certificate that a keep shows, or raise `PeerRefusedError`.

    OpenSSL has checked that the peer has its private key, and nothing else.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        shown = _spki_sha256(certificate)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise PeerRefusedError(f"the keep's certificate cannot be read: {error}") from error
    if not hmac.compare_digest(shown, pin.spki_sha256):
        raise KeyMismatchError(f"the keep shows the key {shown}, expected {pin.spki_sha256}: nothing was sent")
    now = datetime.now(UTC)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise PeerRefusedError(
            f"the keep's certificate is valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} to "
            f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC, and now it is {now:%Y-%m-%d %H:%M}: "
            "check the clocks, or restart the keep"
        )


def _spki_sha256(certificate: x509.Certificate) -> str:
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()
