"""The closed sets: states, reasons, roles."""

from __future__ import annotations

from enum import StrEnum


class KeepState(StrEnum):
    """What a keep is doing, as its manager sees it."""

    CREATING = "creating"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"
    REMOVING = "removing"


class Desired(StrEnum):
    """What a keep is meant to be; the manager works towards it after every start."""

    RUNNING = "running"
    STOPPED = "stopped"
    REMOVED = "removed"


class WorkloadState(StrEnum):
    """What a keep has been given to run."""

    EMPTY = "empty"
    COMPILING = "compiling"
    LOADED = "loaded"


class WorkloadKind(StrEnum):
    """What a workload is, as far as its bytes tell."""

    COMMAND = "command"
    """A module for WASI preview 1 with `_start`."""
    REACTOR = "reactor"
    """A module with `_initialize`, whose functions are called."""
    MODULE = "module"
    """Any other module; its functions are called."""
    COMPONENT_COMMAND = "component-command"
    """A component of world `wasi:cli/command`."""
    HTTP_PROXY = "http-proxy"
    """A component of world `wasi:http/proxy`."""
    COMPONENT = "component"
    """A component of any other world; its functions are called."""
    PYTHON = "python"
    """Python source, run by a component that is a Python runtime."""

    @property
    def is_component(self) -> bool:
        """Whether it is of the component model."""
        return self in {WorkloadKind.COMPONENT_COMMAND, WorkloadKind.HTTP_PROXY, WorkloadKind.COMPONENT}

    @property
    def is_command(self) -> bool:
        """Whether it can be run, and not only called."""
        return self in {WorkloadKind.COMMAND, WorkloadKind.COMPONENT_COMMAND, WorkloadKind.PYTHON}


class WasmFeature(StrEnum):
    """What WebAssembly can have beyond what every workload has, and a keep has only where its configuration says so."""

    MEMORY64 = "memory64"
    """Memories and tables with addresses of 64 bits."""
    GC = "gc"
    """Structs, arrays and typed references; the engine collects what is not used any more."""
    EXCEPTIONS = "exceptions"
    """Exceptions of WebAssembly 3.0 (`try_table`), not those of before."""
    RELAXED_SIMD = "relaxed-simd"
    """Vector instructions whose results differ between processors."""
    WIDE_ARITHMETIC = "wide-arithmetic"
    """Products and sums of 128 bits."""


class RunState(StrEnum):
    """Where a run stands."""

    QUEUED = "queued"
    RUNNING = "running"
    EXITED = "exited"


class ExitReason(StrEnum):
    """Why a run is over."""

    CODE = "code"
    TRAP = "trap"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    OUTPUT_LIMIT = "output-limit"
    STOPPED = "stopped"
    LOST = "lost"


class ServedOutcome(StrEnum):
    """What became of a call of a function, or of an HTTP request that the workload was to answer."""

    ANSWERED = "answered"
    """The function returned, the response is complete."""
    TRAPPED = "trapped"
    EXITED = "exited"
    MEMORY = "memory"
    TIMEOUT = "timeout"
    UNANSWERED = "unanswered"
    """The guest returned, but without anything that could be given on."""
    LOST = "lost"
    """Its process went, and not by the guest's doing."""
    REFUSED = "refused"
    """It never came to the guest."""
    ABANDONED = "abandoned"
    """Whoever asked has gone."""

    @property
    def is_failure(self) -> bool:
        """Whether the guest was at it, and somebody was left without an answer."""
        return self not in {ServedOutcome.ANSWERED, ServedOutcome.REFUSED, ServedOutcome.ABANDONED}


class KeepEventKind(StrEnum):
    """What can have happened in a keep."""

    EGRESS_DENIED = "egress-denied"
    """Somebody in the keep wanted to connect where the spec does not allow it."""
    LISTEN_DENIED = "listen-denied"
    """Somebody in the keep wanted to listen on a port that the spec does not name."""
    SECRET_FETCHED = "secret-fetched"
    """A secret came from where the spec says; not at every renewal, but the first time and after a failure."""
    SECRET_FETCH_FAILED = "secret-fetch-failed"
    """A secret did not come, for a reason that was not the last one; it is tried again."""
    SECRET_FORGOTTEN = "secret-forgotten"
    """A secret that the keep had is refused now, so it has it no more."""
    RUN_ENDED = "run-ended"
    """A run is over, for whatever reason."""
    CALL_FAILED = "call-failed"
    """A guest did not return from a call."""
    REQUEST_FAILED = "request-failed"
    """A guest did not answer an HTTP request, or not to its end."""

    @property
    def is_routine(self) -> bool:
        """Whether it is about what the workload does all day, and neither a denial nor about a secret."""
        return self in {KeepEventKind.RUN_ENDED, KeepEventKind.CALL_FAILED, KeepEventKind.REQUEST_FAILED}


class KeepRole(StrEnum):
    """What a principal may do inside one keep; named in its spec."""

    OWNER = "owner"
    DATA_PROVIDER = "data-provider"
    RESULT_CONSUMER = "result-consumer"
    CALLER = "caller"
    AUDITOR = "auditor"


class ManagerRole(StrEnum):
    """What an identity may do at the manager; named in the host's roles table."""

    OPERATOR = "operator"
    TENANT = "tenant"
    AUDITOR = "auditor"


class AtRest(StrEnum):
    """How a keep's workload, files and outputs lie in its state folder."""

    SEALED = "sealed"
    """Encrypted with the keep's sealing key; in plaintext only in memory, while they are used."""
    PLAIN = "plain"
    """As they are."""


class Selector(StrEnum):
    """What a sealing key can be bound to: another one of it, and what was sealed stays closed."""

    MEASUREMENT = "measurement"
    SIGNER = "signer"
    CHIP = "chip"
    KEEP = "keep"


class FileArea(StrEnum):
    """The folders of a keep: `input` is read-only for guests, `data` outlives workloads.

    Files in `sealed` are envelopes for clients, and plaintext for guests.
    """

    INPUT = "input"
    OUTPUT = "output"
    DATA = "data"
    SEALED = "sealed"


class Backend(StrEnum):
    """What isolates a keep."""

    PROCESS = "process"
    QEMU = "qemu"
    """A virtual machine of its own; whoever runs the host vouches for it, as for a process."""
    QEMU_VTPM = "qemu+vtpm"
    """A virtual machine whose start a TPM measures. The TPM is the host's: so is the trust."""
    SNP = "snp"
    TDX = "tdx"
    SGX = "sgx"
    NITRO = "nitro"

    @property
    def is_tee(self) -> bool:
        """Whether hardware, and not the host, vouches for its keeps."""
        return self in {Backend.SNP, Backend.TDX, Backend.SGX, Backend.NITRO}

    @property
    def is_machine(self) -> bool:
        """Whether its keeps are virtual machines, which start from a guest image."""
        return self in {Backend.QEMU, Backend.QEMU_VTPM, Backend.SNP, Backend.TDX, Backend.NITRO}

    @property
    def is_measured(self) -> bool:
        """Whether evidence covers image and spec of its keeps: then the host may name none of their principals."""
        return self.is_tee or self is Backend.QEMU_VTPM


class EvidenceKind(StrEnum):
    """What made a piece of evidence; decides its layout and its verifier."""

    SNP = "snp"
    TDX = "tdx"
    SGX = "sgx"
    NITRO = "nitro"
    TPM = "tpm"
    AZURE_SNP = "azure-snp"
    AZURE_TDX = "azure-tdx"
    SIMULATED = "simulated"

    @property
    def media_type(self) -> str:
        return f"application/vnd.wasmkeep.{self.value}"

    @property
    def endorsements_media_type(self) -> str:
        return f"application/vnd.wasmkeep.{self.value}-endorsements"

    @property
    def log_media_type(self) -> str:
        return f"application/vnd.wasmkeep.{self.value}-log"


class GuestChannel(StrEnum):
    """How clients' connections reach the keep inside a virtual machine."""

    SERIAL = "serial"
    """As streams of `keep_protocol.channel` over one virtio-serial port."""
    VSOCK = "vsock"
    """As connections to the guest's vsock address."""


class CrlPolicy(StrEnum):
    """Whether a certificate of a CA is accepted only together with a current revocation list."""

    REQUIRED = "required"
    NONE = "none"
