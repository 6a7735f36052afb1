"""Why a keep does not get a secret that it asks others for.

KeyReleaseError
├── MalformedReplyError
├── KeyRefusedError
├── KeyServiceError
└── CredentialsError
"""

from __future__ import annotations

from app_loader.errors import AppLoaderError


class KeyReleaseError(AppLoaderError):
    """A secret could not be fetched. No message holds anything of a value, or text that a service has written."""


class MalformedReplyError(KeyReleaseError):
    """A reply is not of the form that its protocol demands, or is not encrypted to the key that it should be for."""


class KeyRefusedError(KeyReleaseError):
    """The service refused: the evidence did not satisfy it, or the secret is not for this keep."""


class KeyServiceError(KeyReleaseError):
    """The service cannot be reached, is not who it should be, or fails."""


class CredentialsError(KeyReleaseError):
    """There is nothing to sign a request with, or no library to do it."""
