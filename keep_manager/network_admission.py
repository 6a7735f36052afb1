"""Decides whether a keep may have the network that its spec names: the host's own rules, and whether ports are free."""

from __future__ import annotations

from collections.abc import Collection

from keep_manager.config import TenantNetwork
from keep_manager.endpoints import port_is_free, split_endpoint
from keep_manager.entry import KeepEntry
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.network_policy import NetworkPolicy


def check_tenant(policy: NetworkPolicy, allowed: TenantNetwork) -> None:
    """Raises `RefusalError` (`forbidden`) for what only an operator's keep may have."""
    first, last = allowed.listen_ports
    for index, port in enumerate(policy.listen):
        if not first <= port <= last:
            raise RefusalError(
                ErrorCode.FORBIDDEN,
                f"this host lets tenants' keeps listen on ports {first} to {last}, and not on {port}",
                field=f"spec.network.listen[{index}]",
                remedy="choose another port, or have the operator widen keeps.listen_ports",
            )
    for index, rule in enumerate(policy.egress.allow):
        if rule.private and not allowed.private_egress:
            raise RefusalError(
                ErrorCode.FORBIDDEN,
                "this host does not let tenants' keeps connect to private addresses, some of which are its own",
                field=f"spec.network.egress.allow[{index}].private",
                remedy="leave `private` out, or have the operator set keeps.private_egress = true",
            )


def check_ports(policy: NetworkPolicy, address: str, keeps: Collection[KeepEntry]) -> None:
    """Raises `RefusalError` (`port-taken`) for a port that another keep has, or that something listens on.

    `address` is where this host's keeps listen.
    """
    claimed = {port for entry in keeps for port in (*entry.spec.network.listen, split_endpoint(entry.row.endpoint)[1])}
    for index, port in enumerate(policy.listen):
        if port in claimed or not port_is_free(address, port):
            what = "another keep has it" if port in claimed else f"something listens there at {address}"
            raise RefusalError(
                ErrorCode.PORT_TAKEN,
                f"port {port} is taken: {what}",
                field=f"spec.network.listen[{index}]",
                remedy="choose another port, or free this one",
            )
