"""Errors of sealing as refusals of requests."""

from __future__ import annotations

from typing import Final

from app_loader.sealing import errors
from keep_protocol.errors import ErrorCode, RefusalError

_CODES: Final = (
    (errors.RollbackError, ErrorCode.ROLLBACK_REFUSED),
    (errors.UnknownKeyError, ErrorCode.SEALING_KEY_UNKNOWN),
    (errors.MalformedEnvelopeError, ErrorCode.SEALED_INVALID),
    (errors.UnsealError, ErrorCode.SEALED_INVALID),
    (errors.DamagedFileError, ErrorCode.SEALED_INVALID),
    (errors.PurposeError, ErrorCode.SEALED_INVALID),
    (errors.SelectorError, ErrorCode.FIELD_INVALID),
)


def refusal_of(error: errors.SealingError) -> RefusalError:
    """The refusal that says the same."""
    code = next((code for kind, code in _CODES if isinstance(error, kind)), ErrorCode.SEALING_UNAVAILABLE)
    return RefusalError(code, str(error))
