"""What a keep may do on the network, as its spec says it: ports to listen on, hosts to connect to."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

MAX_RULES = 128
"""Of `allow` and of `deny` each."""
MAX_PORTS = 64

Port: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=65535)]


class PortRange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Several ports, from the first to the last."""

    # Not a tuple of two: msgspec 0.22 damages its memory where it decodes a union of bounded numbers and such tuples.
    first: Port
    last: Port


Ports: TypeAlias = Annotated[tuple[Port | PortRange, ...], msgspec.Meta(min_length=1, max_length=MAX_PORTS)]

EVERY_PORT = PortRange(1, 65535)


class EgressRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Hosts, and what may be done there. Nothing has a default: what is allowed is written out."""

    host: Annotated[str, msgspec.Meta(min_length=1, max_length=300)]
    """A name in canonical form, of which a whole label may be `*`, and the first ones `**`; an address; a network."""
    ports: Ports
    methods: (
        Annotated[
            tuple[Annotated[str, msgspec.Meta(max_length=32, pattern="^[A-Z][A-Z-]*$")], ...],
            msgspec.Meta(min_length=1, max_length=16),
        ]
        | None
    )
    """Of HTTP requests; null: all of them, and connections that are not HTTP."""
    private: bool
    """Whether the addresses may be private, link-local, loopback or those of a cloud's metadata. False in `deny`."""


Rules: TypeAlias = Annotated[tuple[EgressRule, ...], msgspec.Meta(max_length=MAX_RULES)]


class Egress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whom a keep may connect to: what a rule of `allow` matches and no rule of `deny`."""

    allow: Rules
    deny: Rules


class NetworkPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that a keep may do on the network. Its own API's endpoint is the host's and not part of it."""

    listen: Annotated[tuple[Port, ...], msgspec.Meta(max_length=MAX_PORTS, extra_json_schema={"uniqueItems": True})]
    """TCP ports on which the workload may listen."""
    egress: Egress

    def __post_init__(self) -> None:
        if len(set(self.listen)) != len(self.listen):
            raise ValueError("`listen` names a port twice")
        if self.egress.allow or self.egress.deny:
            # Most keeps have no rules and import nothing that reads them.
            from keep_protocol.egress.contradictions import check_rules

            check_rules(self.egress)

    @property
    def names_anything(self) -> bool:
        """Whether a keep with it has any network at all."""
        return bool(self.listen or self.egress.allow)


NO_NETWORK = NetworkPolicy(listen=(), egress=Egress(allow=(), deny=()))
