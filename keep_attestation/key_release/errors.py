"""What getting keys from others raises, besides this package's own errors.

KeyReleaseError
├── MalformedReplyError
├── KeyRefusedError
└── KeyServiceError
"""

from __future__ import annotations

from keep_attestation.errors import AttestationError


class KeyReleaseError(AttestationError):
    """A key could not be had. No message holds anything of a key."""


class MalformedReplyError(KeyReleaseError):
    """A reply is not of the form that the protocol demands, or cannot be decrypted with the key it should be for."""


class KeyRefusedError(KeyReleaseError):
    """The service refused: the evidence did not satisfy it, or the key is not for this keep."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status."""


class KeyServiceError(KeyReleaseError):
    """The service cannot be reached, or fails."""
