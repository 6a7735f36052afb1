"""What a manager hands to a keep's unit process, and what that process publishes about itself."""

from __future__ import annotations

from typing import Literal

import msgspec

from keep_protocol.machine import MACHINE_FDS, Machine, MachineStart

PROTOCOL_VERSION = 1

MAX_MESSAGE = 4096
"""Bytes of one message on the hand-over socket; the configuration itself travels in a memfd."""

MAX_KEEP_FILE = 64 * 1024
"""Bytes of a `keep.json` that a manager is willing to read."""

LISTEN_FD = "listen"
CONFIGURATION_FD = "configuration"
"""Names under which systemd's descriptor store keeps the two descriptors over restarts."""

TPM_FD = "tpm"
DEVICE_FDS = frozenset({TPM_FD}) | MACHINE_FDS
"""Descriptors that some keeps get beside these two: an open device or a connection to what stands for one, and the
files that a machine starts from."""

BROKER_SOCKET = "socket/net.sock"
"""Where a keep's network broker listens, in the folder that only these two have."""


class Hello(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """First message on the hand-over socket, from the keep."""

    version: int
    instance: str
    invocation: str


class Handover(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The answer: comes with two descriptors, the listening socket and a memfd with a `Configuration`."""

    version: int
    result: Literal["ok", "refused"]
    reason: str = ""
    devices: tuple[str, ...] = ()
    """Names of further descriptors, in the order in which they come after the two."""


class Configuration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that a keep is told by its host."""

    id: str
    deployment: str
    spec: str
    """The canonical bytes of the spec, as text."""
    domain: str
    """The keep's certificate names `<id>.keep.<domain>`."""
    names: tuple[str, ...]
    """Further DNS names and addresses for its certificate."""
    client_ca: str = ""
    """The host's own CA for clients, DER in base64: no keep that distrusts the host lets it name anybody."""
    server_ca: str = ""
    """The host's own CA for its manager's certificate, likewise."""
    sealing_keys: tuple[str, ...] = ()
    """The host's halves of the keys that it seals with, 32 bytes in base64 each, the newest first."""
    machine: Machine | None = None
    """How the keep's virtual machine is started; for the loader alone, its guest is not told."""


class SandboxFact(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One property of its sandbox that a keep tried out when it started."""

    name: str
    holds: bool
    detail: str = ""


class KeepFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`keep.json`: the keep's own word, believed for the certificate, the sandbox facts and its start only."""

    version: int
    certificate: str
    """PEM."""
    invocation: str
    sandbox: tuple[SandboxFact, ...]
    start: MachineStart | None = None
    """Of a machine that may be a clone."""
