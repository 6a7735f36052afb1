"""What server and runner say to each other over their socketpair: msgspec JSON, one message a packet."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Literal

import msgspec

from keep_protocol.handover import SandboxFact
from keep_protocol.keep_api import WorkloadDescription
from keep_protocol.states import ExitReason, WasmFeature

MAX_PACKET = 64 * 1024
"""Bytes of a packet."""

MAX_DESCRIPTORS = 192
"""Of one packet: six of a run, and one for each of at most 64 mounts, 32 secrets and 64 sockets; the kernel's limit
is 253."""

MAX_REPORT = 32 * 1024
"""Bytes of a child's report, so that one write into an empty pipe holds it."""


class Warm(msgspec.Struct, frozen=True, tag="warm"):
    """Map wasmtime and make the engine."""


class Load(msgspec.Struct, frozen=True, tag="load"):
    """Map the compiled module at `path`, if its SHA-256 in hex is `digest`, and keep it as `module`.

    Without a path, a descriptor of the file comes with the message.
    """

    module: str
    path: str
    digest: str
    component: bool = False
    http: bool = False
    """Whether the component answers HTTP requests."""
    features: tuple[WasmFeature, ...] = ()
    """Those with which it was compiled."""


class Unload(msgspec.Struct, frozen=True, tag="unload"):
    """Forget a module."""

    module: str


class Compile(msgspec.Struct, frozen=True, tag="compile"):
    """Compile in a child.

    Descriptors: the module to read, the file for the compiled one, a memfd for the report, one for its standard error.
    """

    process: str
    cpu_seconds: int
    address_space: int
    features: tuple[WasmFeature, ...] = ()
    """Those that it may need."""


class GuestMount(msgspec.Struct, frozen=True):
    """A folder for a run, whose descriptor comes with the message."""

    guest: str
    writable: bool


class GuestFile(msgspec.Struct, frozen=True):
    """One of a guest's first descriptors, when its workload's configuration names them."""

    kind: Literal["null", "stdin", "stdout", "stderr", "listen", "connect"]

    @property
    def is_socket(self) -> bool:
        """Whether it comes with a descriptor of its own."""
        return self.kind in ("listen", "connect")


STANDARD_STREAMS = ("stdin", "stdout", "stderr")
"""In the order of their numbers."""


class Start(msgspec.Struct, frozen=True, tag="start"):
    """Run `module` in a child.

    Descriptors: a memfd with an `Assignment`, stdin, stdout, stderr, a pipe for the report, then one a mount, then with
    `shimmed` an empty folder and one a socket. The runner passes the memfd on unread: its memory is copied into later
    runs, which must not see this one's arguments.
    """

    process: str
    module: str
    shimmed: bool = False
    """Whether it has descriptors that WASI cannot have."""


class Assignment(msgspec.Struct, frozen=True):
    """What a run is to do and what it may use; sizes in bytes."""

    arguments: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    memory: int
    """Of its linear memory."""
    file_size: int
    """Of the longest file that it may write."""
    mounts: tuple[GuestMount, ...]
    files: tuple[GuestFile, ...] | None = None
    """Its first descriptors, from 0 on; None: the standard streams."""

    @property
    def shimmed(self) -> bool:
        """Whether some of `files` are what WASI cannot have, or not at that number."""
        return shimmed([file.kind for file in self.files or ()])


def shimmed(kinds: Sequence[object]) -> bool:
    """Whether descriptors of these kinds, from 0 on, are more than standard streams in their places."""
    return any(
        number >= len(STANDARD_STREAMS) or kind not in ("null", STANDARD_STREAMS[number])
        for number, kind in enumerate(kinds)
    )


class Work(StrEnum):
    """What a child that serves a module answers."""

    CALLS = "calls"
    """Of its functions."""
    HTTP = "http"


class Serve(msgspec.Struct, frozen=True, tag="serve"):
    """Answer calls or HTTP requests with `module` in a child.

    Descriptors: a stream socket to the server; for HTTP also a pipe for what the guest prints, and, if it may go
    outside, a channel to the server's network and a file with the certificates (PEM) that other servers are checked
    against.
    """

    process: str
    module: str
    work: Work


class Kill(msgspec.Struct, frozen=True, tag="kill"):
    """SIGKILL for a child; nothing happens if it is gone."""

    process: str


Order = Warm | Load | Unload | Compile | Start | Serve | Kill


class Confined(msgspec.Struct, frozen=True, tag="confined"):
    """The runner's first word: how far it is confined."""

    facts: tuple[SandboxFact, ...]


class Warmed(msgspec.Struct, frozen=True, tag="warmed"):
    """The engine is there, or `error` says why not."""

    error: str | None


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    """A module is mapped, or `error` says why not."""

    module: str
    error: str | None


class Started(msgspec.Struct, frozen=True, tag="started"):
    """A child lives."""

    process: str
    pid: int


class ProcessUsage(msgspec.Struct, frozen=True):
    """Seconds of processor time, and bytes of resident memory at the peak."""

    cpu: float
    memory: int


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """A child is gone and reaped: by `signal`, or with `code`; `error` when it could not even be forked."""

    process: str
    code: int | None = None
    signal: int | None = None
    error: str | None = None
    usage: ProcessUsage | None = None


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The runner's last word."""

    error: str


Event = Confined | Warmed | Loaded | Started | Ended | Failed


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """A run's own account of how it ended."""

    reason: ExitReason
    code: int | None = None
    trap: str | None = None
    message: str | None = None
    backtrace: tuple[str, ...] = ()
    usage: ProcessUsage | None = None


class CompileReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of a compilation. `digest` is the SHA-256 in hex of the compiled module.

    `source` is that of the module read. `invalid` says why it is no program for a keep, `error` that it did not
    compile, `needed` which features it has to have, if some of them are off; otherwise there is a `description`, and it
    is compiled with exactly the features that this names.
    """

    source: str = ""
    digest: str = ""
    invalid: str | None = None
    error: str | None = None
    needed: tuple[WasmFeature, ...] = ()
    exhausted: str | None = None
    """A limit that was hit."""
    description: WorkloadDescription | None = None


order_encoder = msgspec.json.Encoder()
order_decoder = msgspec.json.Decoder(Order)
event_decoder = msgspec.json.Decoder(Event)
