"""Why something cannot be sealed or unsealed."""

from __future__ import annotations

from app_loader.errors import AppLoaderError


class SealingError(AppLoaderError):
    """Base of all of them; nothing else comes out of this package."""


class MalformedEnvelopeError(SealingError):
    """The bytes are no envelope: cut off, of another format, or with a header that nobody here writes."""


class UnknownVersionError(MalformedEnvelopeError):
    """An envelope of a version that this keep does not know."""


class UnknownKeyError(SealingError):
    """The envelope names a key that this keep does not have: of another keep, kind or machine, or lost."""


class UnsealError(SealingError):
    """The key is there and does not fit: the envelope was changed, or is bound to something else."""


class DamagedFileError(SealingError):
    """A file at rest was changed, cut off, or put in the place of another."""


class PurposeError(SealingError):
    """The envelope was sealed for another purpose."""


class RollbackError(SealingError):
    """The envelope is older than it must be, or nothing proves that it is not."""


class SelectorError(SealingError):
    """The key cannot be bound to what was asked for."""


class SealingUnavailableError(SealingError):
    """This keep has no key to seal with."""
