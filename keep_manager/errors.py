"""What can go wrong in the manager apart from refusing a request (`keep_protocol.errors.RefusalError`)."""

from __future__ import annotations


class ManagerError(Exception):
    """Base of this package's errors."""


class ConfigurationError(ManagerError):
    """The home, its configuration or its PKI is missing or not usable; the message names the file and the remedy."""


class CertificateRequestError(ManagerError):
    """A certificate signing request is not acceptable; the message says what is expected instead."""


class AlreadyServedError(ManagerError):
    """Another manager serves this home already."""


class StoreError(ManagerError):
    """The database cannot be read or written: corrupt, of another version, or its disk fails."""


class StoreFullError(StoreError):
    """The disk of the database is full; nothing was written."""


class EndpointTakenError(ManagerError):
    """Something else listens on a keep's recorded endpoint, or no port of the configured range is free."""


class ProbeError(ManagerError):
    """An endpoint does not answer in TLS, or with another key than its keep published."""


class SupervisorError(ManagerError):
    """Base of what goes wrong with the supervisor."""


class SupervisorUnavailableError(SupervisorError):
    """The supervisor cannot be started, or does not answer in time."""


class UnitStartError(SupervisorError):
    """A unit did not become ready; `result` is systemd's word for why."""

    def __init__(self, unit: str, result: str, detail: str = "") -> None:
        super().__init__(f"{unit} did not start: {result}{': ' + detail if detail else ''}")
        self.unit = unit
        self.result = result


class KeepFileError(ManagerError):
    """A keep's `keep.json` is not acceptable: missing, a link, too large, malformed or contradicting the unit."""


class KeepStartError(ManagerError):
    """A keep's unit did not start, or what started is not the keep; the message begins with a code."""


class BrokerStartError(KeepStartError):
    """A keep's network broker did not start."""

    def __init__(self, detail: str) -> None:
        super().__init__(f"network-broker: {detail}")


class DeviceError(ManagerError):
    """A device that a keep is to use cannot be opened."""


class SealingKeyError(KeepStartError):
    """The file with a keep's sealing keys is damaged, or cannot be read or written."""

    def __init__(self, detail: str) -> None:
        super().__init__(f"sealing-key: {detail}")


class ProgramError(ManagerError):
    """A program of the host that was asked something is missing, fails, or does not answer."""


class GuestImageError(ManagerError):
    """The guest image is missing, damaged, or none."""


class TemplateError(ManagerError):
    """There is no template that a machine could be a clone of; the message begins with a code, and names the remedy."""


class MachineUnavailableError(ManagerError):
    """What a keep's virtual machine is started from is not there any more."""
