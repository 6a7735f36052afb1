"""What can go wrong in a network broker."""

from __future__ import annotations

from keep_protocol.broker import BrokerResult


class BrokerError(Exception):
    """Base of all errors of a broker."""


class ConfigurationError(BrokerError):
    """What the manager wrote for this broker is missing, malformed, or not what its digest says."""


class RequestRefusedError(BrokerError):
    """A request gets no socket; `result` and the message go into the answer."""

    def __init__(self, result: BrokerResult, reason: str, *, rule: str | None = None) -> None:
        super().__init__(reason)
        self.result = result
        self.rule = rule
