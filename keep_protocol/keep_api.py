"""What goes over the wire between a client and a keep."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec

from keep_protocol.secret_api import USES_SCHEMA, SecretUse
from keep_protocol.states import (
    Backend,
    ExitReason,
    FileArea,
    KeepRole,
    RunState,
    Selector,
    WasmFeature,
    WorkloadKind,
    WorkloadState,
)

WASM_MEDIA_TYPE = "application/wasm"
PYTHON_MEDIA_TYPE = "text/x-python"
CMW_MEDIA_TYPE = "application/cmw+cbor"
"""Conceptual message wrapper, RFC 9999: a collection of evidence, claims, endorsements and log."""

Argument: TypeAlias = Annotated[str, msgspec.Meta(max_length=128 * 1024, pattern="^[^\\x00]*$")]
EnvironmentName: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=1024, pattern="^[^=\\x00]+$")]


class WorkloadImport(msgspec.Struct, frozen=True):
    """Something that a workload wants: `MODULE.NAME` of a module, an interface of a component.

    `type` is like `func(i32) -> i32`, `memory`, `instance`; `given` says whether a keep has it.
    """

    name: str
    type: str
    given: bool


class WorkloadExport(msgspec.Struct, frozen=True):
    """Something that a workload offers. What has a type that begins with `func` can be called by its name."""

    name: str
    type: str


class WorkloadDescription(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a workload is: told from its bytes, before anything of it runs."""

    kind: WorkloadKind
    imports: tuple[WorkloadImport, ...] = ()
    exports: tuple[WorkloadExport, ...] = ()
    problems: tuple[str, ...] = ()
    """What will not work."""
    imports_omitted: int = 0
    """Further imports, which are not listed."""
    exports_omitted: int = 0
    """Further exports, which are not listed."""
    features: tuple[WasmFeature, ...] = ()
    """What the configuration must switch on for it. Before it is compiled, those that its declarations tell."""


class WorkloadInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a keep has loaded. `digest` is the SHA-256 of the upload in hex, `size` its bytes.

    Of Python source, `runtime` is the digest of what runs it, and `digest` names both (`python_source`).
    The rest is as in `WorkloadDescription`; `GET /v1/status` leaves the lists out.
    """

    state: WorkloadState
    digest: str | None = None
    size: int | None = None
    loaded_at: str | None = None
    kind: WorkloadKind | None = None
    imports: tuple[WorkloadImport, ...] = ()
    exports: tuple[WorkloadExport, ...] = ()
    problems: tuple[str, ...] = ()
    imports_omitted: int = 0
    exports_omitted: int = 0
    runtime: str | None = None
    features: tuple[WasmFeature, ...] = ()


class CallRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One call of an exported function. Limits left out are those of the spec; larger ones are refused."""

    arguments: Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema={"type": "array", "default": []})] = msgspec.field(
        default_factory=lambda: msgspec.Raw(b"[]")
    )
    """A JSON array with one value for each parameter."""
    memory: Annotated[int, msgspec.Meta(ge=65536, le=2**53 - 1)] | None = None
    """Bytes of each linear memory of the guest."""
    timeout: Annotated[float, msgspec.Meta(gt=0, le=10 * 365 * 86400)] | None = None
    """Seconds from the call's begin to its end, not counting the time in which it waits for others."""


class ServedUsage(msgspec.Struct, frozen=True):
    """What a call, or a request that the workload answered, has used. Times in seconds, sizes in bytes."""

    wall: float
    """From when its turn had come to its end."""
    cpu: float
    """Processor time of its process, in user mode and in the kernel."""
    memory: int
    """The most resident memory that its process had meanwhile; some 20 MiB of it are not the guest's."""
    input: int
    """Arguments as JSON, or the body of a request, as far as it was read."""
    output: int
    """A result as JSON, or the body of a response, as far as it was given on."""


class CallResult(msgspec.Struct, frozen=True):
    """What a function returned: null for nothing, an array if a module's function returns several values."""

    result: msgspec.Raw
    usage: ServedUsage | None = None
    """None only from keeps that do not measure calls."""


class ServedCounts(msgspec.Struct, frozen=True):
    """Calls, or HTTP requests to the workload: those there are now, and how many ended how in this life of the keep."""

    active: int = 0
    waiting: int = 0
    """For others to end."""
    answered: int = 0
    failed: int = 0
    """By a trap, an exit, too much time or memory, or otherwise in the middle."""
    refused: int = 0
    """Before they came to the guest."""
    abandoned: int = 0
    """By whoever asked."""


class HttpPortStatus(msgspec.Struct, frozen=True):
    """The port of its own on which the workload answers HTTP."""

    port: int
    public: bool
    """Whether clients need no certificate."""
    listening: bool
    problem: str | None = None
    """Why it is not open."""


class KeepStatus(msgspec.Struct, frozen=True):
    """The keep about itself. Times are RFC 3339 in UTC."""

    id: str
    version: str
    backend: Backend
    spec_digest: str
    invocation: str
    started_at: str
    workload: WorkloadInfo
    runs_active: int
    runs_queued: int
    files_used: int
    you: tuple[KeepRole, ...]
    """The roles of whoever asks."""
    configuration_digest: str | None = None
    """Of the workload's configuration; None while there is none."""
    http_port: HttpPortStatus | None = None
    """None while the configuration names no port."""
    calls: ServedCounts = ServedCounts()
    requests: ServedCounts = ServedCounts()
    """HTTP requests to the workload."""


class AttestationRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Asks for fresh evidence. `nonce` is 32 random bytes in base64, never used before."""

    nonce: Annotated[str, msgspec.Meta(min_length=44, max_length=44, pattern="^[A-Za-z0-9+/]{43}=$")]


class Stdin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Standard input given with the run itself."""

    base64: str


class Mount(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A folder of the keep that a run sees at `guest`: `area`, or `path` below it."""

    guest: Annotated[str, msgspec.Meta(min_length=1, max_length=4096, pattern="^[^\\x00]+$")]
    area: FileArea
    path: Annotated[str, msgspec.Meta(max_length=4096, pattern="^[^\\x00]*$")] = ""
    writable: bool = False
    bind: Annotated[tuple[Selector, ...], msgspec.Meta(max_length=4)] = ()
    """Of area `sealed`: what files that the run writes are bound to; empty: what is usual for the keep's key."""


DEFAULT_MOUNTS = (
    Mount(guest="/input", area=FileArea.INPUT),
    Mount(guest="/output", area=FileArea.OUTPUT, writable=True),
    Mount(guest="/data", area=FileArea.DATA, writable=True),
)


class RunRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One execution. What is left out or null is as the keep's configuration has it, or else as usual.

    Limits are at most those of the spec; larger ones are refused. `args` are the guest's arguments after its name;
    `program` is argv[0].
    """

    args: Annotated[tuple[Argument, ...], msgspec.Meta(max_length=4096)] | None = None
    program: Argument = "main.wasm"
    env: Annotated[dict[EnvironmentName, Argument], msgspec.Meta(max_length=4096)] = {}
    """Added to the configuration's; the same names are replaced."""
    stdin: Literal["none", "stream"] | Stdin | None = None
    mounts: Annotated[tuple[Mount, ...], msgspec.Meta(max_length=64)] | None = None
    """Usually /input, /output (writable) and /data (writable)."""
    memory: Annotated[int, msgspec.Meta(ge=65536, le=2**53 - 1)] | None = None
    """Bytes of each linear memory of the guest."""
    timeout: Annotated[float, msgspec.Meta(gt=0, le=10 * 365 * 86400)] | None = None
    """Seconds of wall-clock time."""
    output_limit: Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)] | None = None
    """Bytes of standard output and standard error together."""
    secrets: (
        Annotated[
            tuple[Annotated[SecretUse, msgspec.Meta(extra_json_schema=USES_SCHEMA)], ...], msgspec.Meta(max_length=32)
        ]
        | None
    ) = None
    """Secrets of the keep that the run gets, with the values that they have when it starts."""


class RunExit(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a run ended. `code` is the guest's exit status with reason `code`, the trap's name in `trap`.

    `backtrace` has frames as `MODULE!FUNCTION+OFFSET`, and ` at FILE:LINE:COLUMN` where the workload carries DWARF.
    """

    reason: ExitReason
    code: int | None = None
    trap: str | None = None
    message: str | None = None
    backtrace: tuple[str, ...] = ()


class RunUsage(msgspec.Struct, frozen=True):
    """What a run has used so far, or in all. Times in seconds, sizes in bytes."""

    wall: float
    """From the start of its process on."""
    cpu: float
    """Processor time, in user mode and in the kernel."""
    memory: int
    """The most resident memory that its process had; some 20 MiB of it are not the guest's."""
    stdin: int
    """What it was sent."""
    output: int
    """Of standard output and standard error, what was kept."""


class Run(msgspec.Struct, frozen=True, omit_defaults=True):
    """A run's record. `stdout` and `stderr` count the bytes that can be fetched."""

    id: str
    state: RunState
    created_at: str
    workload: str
    """Digest of the workload that it runs."""
    exit: RunExit | None = None
    started_at: str | None = None
    ended_at: str | None = None
    stdout: int = 0
    stderr: int = 0
    usage: RunUsage | None = None
    """None of a run that has not begun, or that a restart of the keep interrupted."""


class RunList(msgspec.Struct, frozen=True):
    """The runs that a keep remembers, oldest first."""

    runs: tuple[Run, ...]


class FileKind(msgspec.Struct, frozen=True):
    """One entry of a folder. `kind` is `file`, `folder`, `link` or `other`; `size` is of files only."""

    name: str
    kind: Literal["file", "folder", "link", "other"]
    size: int
    modified_at: str


class FileList(msgspec.Struct, frozen=True):
    """What a folder of a keep holds, sorted by name."""

    area: FileArea
    path: str
    entries: tuple[FileKind, ...]


class FileStored(msgspec.Struct, frozen=True):
    """An acknowledged upload: it is on disk. `digest` is SHA-256 in hex."""

    area: FileArea
    path: str
    size: int
    digest: str
