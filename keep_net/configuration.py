"""Reads what the manager wrote for a broker, and checks that it is what it says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from keep_net.errors import ConfigurationError
from keep_protocol.broker import BrokerConfiguration
from keep_protocol.egress.hosts import Address, canonical_address
from keep_protocol.egress.rules import EgressPolicy
from keep_protocol.spec import decode_spec, spec_digest
from keep_protocol.strict_json import decode_strictly


@dataclass(frozen=True, slots=True)
class Allowed:
    """What one keep's broker may do."""

    spec_digest: str
    egress: EgressPolicy
    listen: frozenset[int]
    listen_address: Address


def read_configuration(path: Path) -> Allowed:
    """What `broker.json` allows. Raises `ConfigurationError`."""
    try:
        configuration = decode_strictly(path.read_bytes(), BrokerConfiguration)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise ConfigurationError(f"{path} is malformed: {error}") from None
    raw = configuration.spec.encode()
    if spec_digest(raw) != configuration.spec_digest:
        raise ConfigurationError(
            f"{path} holds a spec with the digest {spec_digest(raw)}, and says that it has another"
        )
    try:
        spec = decode_spec(raw)
        address = canonical_address(configuration.listen_address)
    except (msgspec.DecodeError, ValueError) as error:
        raise ConfigurationError(f"{path} is malformed: {error}") from None
    policy = spec.network
    return Allowed(configuration.spec_digest, EgressPolicy.of(policy.egress), frozenset(policy.listen), address)
