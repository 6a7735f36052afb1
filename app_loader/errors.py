"""What can go wrong inside a keep, apart from refusals of requests (`keep_protocol.errors.RefusalError`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app_loader.runner_messages import Report
    from keep_protocol.broker import BrokerResult


class AppLoaderError(Exception):
    """Base of all errors that end or keep from starting an app-loader."""


class LibcryptoError(AppLoaderError):
    """OpenSSL's libcrypto is missing, lacks a function, or refuses what it was given."""


class IdentityError(AppLoaderError):
    """The keep's own certificate cannot be made from its configuration."""


class PrincipalError(AppLoaderError):
    """A principal of the spec carries a certificate that is none or may not do what it is named for."""


class RevocationError(AppLoaderError):
    """The host's file of revocation lists is missing, too large or malformed."""


class RouteTableError(AppLoaderError):
    """The route table contradicts itself."""


class ConfinementError(AppLoaderError):
    """The kernel refused a restriction without which no guest may run."""


class CallFailedError(AppLoaderError):
    """A guest did not return from a call; `report` says how it ended."""

    def __init__(self, report: Report) -> None:
        super().__init__(report.message or report.reason)
        self.report = report


class EngineError(AppLoaderError):
    """Wasmtime refused something; the message is its own."""


class RunnerDiedError(AppLoaderError):
    """The runner process is gone, so nothing can be started any more."""


class ModuleLoadError(AppLoaderError):
    """The runner could not map a compiled module: damaged, or of another version of wasmtime."""


class EgressDeniedError(AppLoaderError):
    """The spec does not let the keep connect to a host, or listen on a port; the message says why.

    `rule` is the rule of the spec that decided, if one did.
    """

    def __init__(self, reason: str, *, rule: str | None = None) -> None:
        super().__init__(reason)
        self.rule = rule


class NetworkUnavailableError(AppLoaderError):
    """The spec allows it, and yet there is no socket: the broker does not answer, or is overloaded."""


class HostUnreachableError(NetworkUnavailableError):
    """A host that may be connected to has no address, refuses, or does not answer; `result` says which."""

    def __init__(self, reason: str, result: BrokerResult) -> None:
        super().__init__(reason)
        self.result = result


class PortTakenError(NetworkUnavailableError):
    """A port that the keep may listen on is used by somebody else."""


class AttesterError(AppLoaderError):
    """What makes evidence is missing, refuses, or answers nonsense."""


class ExporterError(AppLoaderError):
    """No keying material can be exported from a TLS connection."""
