"""Everything that this package raises.

KeepClientError
├── InvalidArgumentError
│   ├── NotAFileError
│   └── NotAFolderError
├── ConnectionFailedError
│   ├── ConnectionBrokenError
│   └── IdentityRefusedError
├── PeerRefusedError
│   ├── EvidenceRefusedError
│   ├── KeyMismatchError
│   └── ImpostorError
├── ProblemError
└── ProtocolError
    └── SpecMismatchError
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keep_protocol.errors import Problem

if TYPE_CHECKING:
    from keep_attestation.ratls.peer import PeerVerdict


class KeepClientError(Exception):
    """Base of this package's errors."""


class InvalidArgumentError(KeepClientError):
    """What the caller gave cannot be used: a file, a certificate, an address, a path, a spec."""


class NotAFileError(InvalidArgumentError):
    """A file's content was asked for, and the keep has a folder there."""


class NotAFolderError(InvalidArgumentError):
    """A folder's entries were asked for, and the keep has a file there."""


class ConnectionFailedError(KeepClientError):
    """The peer cannot be reached or does not answer in time."""


class ConnectionBrokenError(ConnectionFailedError):
    """The connection ended in the middle of an exchange: whether the request had its effect is not known."""


class IdentityRefusedError(ConnectionFailedError):
    """The peer refused our certificate in the handshake."""


class PeerRefusedError(KeepClientError):
    """We refused the peer's certificate; nothing of the request was sent."""


class EvidenceRefusedError(PeerRefusedError):
    """The keep proves nothing, or something else than it should; `verdict` has every check, unless nothing was read."""

    def __init__(self, message: str, verdict: PeerVerdict | None) -> None:
        super().__init__(message, verdict)
        self.verdict = verdict

    def __str__(self) -> str:
        return str(self.args[0])


class KeyMismatchError(PeerRefusedError):
    """The keep shows another key than the pinned one."""


class ImpostorError(PeerRefusedError):
    """Another key, and the manager knows of no new life of the keep that would explain it."""


class ProblemError(KeepClientError):
    """The peer refused or failed, and said why in an RFC 9457 problem; `code` is a `keep_protocol.errors.ErrorCode`."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.code = problem.code
        self.status = problem.status
        self.detail = problem.detail
        self.field = problem.field
        self.remedy = problem.remedy
        self.trap = problem.trap
        self.backtrace = problem.backtrace


class ProtocolError(KeepClientError):
    """The answer is not what the API promises."""


class SpecMismatchError(ProtocolError):
    """The manager made a keep from another spec than the one it was given."""


class RuntimeBuildError(KeepClientError):
    """What runs Python source in a keep could not be made here."""
