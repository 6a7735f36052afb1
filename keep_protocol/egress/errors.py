"""What can be wrong with hosts, rules and targets."""

from __future__ import annotations


class EgressError(ValueError):
    """Base of all of them; a `ValueError`, so that decoding a spec reports it as one of the spec's."""


class HostError(EgressError):
    """A text names no host, or not in a way that everybody understands alike."""


class RuleError(EgressError):
    """A rule says nothing, or not what it seems to say."""


class ContradictionError(EgressError):
    """Rules that cannot all be meant."""


class TargetError(EgressError):
    """A URL or `HOST:PORT` that nobody should connect to as it is written."""
