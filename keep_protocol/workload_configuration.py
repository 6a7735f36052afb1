"""What a keep's owner says about how its workload is run: arguments, descriptors, folders, secrets, HTTP, limits."""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec

from keep_protocol.keep_api import Argument, EnvironmentName, Mount
from keep_protocol.network_policy import MAX_RULES, EgressRule, Port
from keep_protocol.secret_api import SECRET_NAME_PATTERN, USES_SCHEMA, SecretUse
from keep_protocol.states import WasmFeature

MAX_CONFIGURATION: Final = 1_000_000
"""Bytes of a configuration as JSON; Enarx allowed its file as many."""

MAX_FILES: Final = 64
"""Descriptors that a configuration may give; as many as mounts."""

_Name: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern="^[^:\\x00]+$")]
"""Of a descriptor. `FD_NAMES` joins names with colons."""
_Host: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=253, pattern="^[^\\x00-\\x20/]+$")]
_Pem: TypeAlias = Annotated[str, msgspec.Meta(max_length=256 * 1024, pattern="-----BEGIN CERTIFICATE-----")]


class SocketProtocol(StrEnum):
    """What is spoken on a connection beneath the guest; `tls` is done by the keep, so guests see plain bytes."""

    TCP = "tcp"
    TLS = "tls"


class ClientCertificates(StrEnum):
    """Whether clients of a listening socket show a certificate."""

    NONE = "none"
    OPTIONAL = "optional"
    """Whoever shows one must be trusted."""
    REQUIRED = "required"


class ConnectIdentity(StrEnum):
    """What a connecting socket shows when its server asks for a certificate."""

    KEEP = "keep"
    """The keep's own certificate."""
    NONE = "none"
    SECRET = "secret"
    """Certificate and key (PEM) that a secret of the keep holds."""


class OutputPolicy(StrEnum):
    """What becomes of a run's output."""

    KEEP = "keep"
    NULL = "null"


class ListenTls(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """TLS 1.3 with the keep's certificate; `roots` (PEM) are what clients' certificates are checked with."""

    client_certificates: ClientCertificates = ClientCertificates.NONE
    roots: _Pem | None = None

    def __post_init__(self) -> None:
        if (self.client_certificates is ClientCertificates.NONE) != (self.roots is None):
            raise ValueError("`roots` come with `client_certificates` optional or required, and only then")


class ConnectTls(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """TLS 1.3 to a server whose certificate is for its `host`, under `roots` (PEM) or else those of the system."""

    roots: _Pem | None = None
    identity: ConnectIdentity = ConnectIdentity.KEEP
    secret: Annotated[str, msgspec.Meta(pattern=SECRET_NAME_PATTERN)] | None = None
    """Name of the secret with `identity` `secret`."""

    def __post_init__(self) -> None:
        if (self.identity is ConnectIdentity.SECRET) != (self.secret is not None):
            raise ValueError('`secret` comes with `identity` "secret", and only then')


class NullFile(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="kind", tag="null"
):
    """A descriptor that is at its end and swallows what is written."""

    name: _Name | None = None


class StdinFile(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="kind", tag="stdin"
):
    """The run's standard input."""

    name: _Name | None = None


class StdoutFile(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="kind", tag="stdout"
):
    """The run's standard output."""

    name: _Name | None = None


class StderrFile(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="kind", tag="stderr"
):
    """The run's standard error."""

    name: _Name | None = None


class ListenFile(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="kind", tag="listen"
):
    """A listening socket."""

    name: _Name
    prot: SocketProtocol
    port: Port
    addr: _Host = "::"
    """An IP address, or `localhost`. `::` and `0.0.0.0`: wherever the keep's host lets its ports be reached."""
    tls: ListenTls | None = None

    def __post_init__(self) -> None:
        _check_tls(self.prot, self.tls)
        _ = self.address

    @property
    def address(self) -> str:
        """`addr` in canonical form; empty for every address. Raises `ValueError`."""
        if self.addr in ("::", "0.0.0.0"):
            return ""
        if self.addr == "localhost":
            return "127.0.0.1"
        # Keeps without sockets do not need it, and none does before it is ready.
        from keep_protocol.egress.hosts import canonical_address

        try:
            address = canonical_address(self.addr)
        except ValueError as error:
            raise ValueError(f"`addr`: {error}; expected an IP address, such as 127.0.0.1 or ::") from None
        return "" if address.is_unspecified else str(address)


class ConnectFile(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="kind", tag="connect"
):
    """A connected socket."""

    host: _Host
    prot: SocketProtocol
    port: Port
    name: _Name | None = None
    """Else the host."""
    tls: ConnectTls | None = None

    def __post_init__(self) -> None:
        _check_tls(self.prot, self.tls)


def _check_tls(prot: SocketProtocol, tls: msgspec.Struct | None) -> None:
    if tls is not None and prot is not SocketProtocol.TLS:
        raise ValueError('`tls` comes with `prot` "tls" only')


Descriptor: TypeAlias = NullFile | StdinFile | StdoutFile | StderrFile | ListenFile | ConnectFile


class RunLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one run may use, if that is less than the spec allows."""

    memory: Annotated[int, msgspec.Meta(ge=65536, le=2**53 - 1)] | None = None
    """Bytes of each linear memory of the guest."""
    run_time: Annotated[int, msgspec.Meta(ge=1, le=10 * 365 * 86400)] | None = None
    """Seconds of wall-clock time."""
    output: Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)] | None = None
    """Bytes of standard output and standard error together."""


class HttpService(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Whether and where the workload answers HTTP."""

    enabled: bool = True
    wagi: bool = False
    """Run a preview-1 command for each request, as CGI does."""
    port: Port | None = None
    """A port of its own with the keep's certificate, besides `/v1/http/`."""
    public: bool = False
    """Whether that port answers clients without a certificate."""


class WorkloadConfiguration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The defaults of a keep's runs. What a `RunRequest` says itself comes before them."""

    args: Annotated[tuple[Argument, ...], msgspec.Meta(max_length=4096)] = ()
    env: Annotated[dict[EnvironmentName, Argument], msgspec.Meta(max_length=4096)] = {}
    """A run's own variables are added, and replace those of the same name."""
    stdin: Literal["none", "stream"] = "none"
    stdout: OutputPolicy = OutputPolicy.KEEP
    stderr: OutputPolicy = OutputPolicy.KEEP
    mounts: Annotated[tuple[Mount, ...], msgspec.Meta(max_length=64)] | None = None
    """None: /input, /output and /data."""
    secrets: Annotated[
        tuple[Annotated[SecretUse, msgspec.Meta(extra_json_schema=USES_SCHEMA)], ...], msgspec.Meta(max_length=32)
    ] = ()
    files: Annotated[tuple[Descriptor, ...], msgspec.Meta(max_length=MAX_FILES)] | None = None
    """The guest's descriptors, from 0 on. None: the three standard streams, and no `FD_COUNT` and `FD_NAMES`."""
    limits: RunLimits = RunLimits()
    http: HttpService | None = None
    egress: Annotated[tuple[EgressRule, ...], msgspec.Meta(max_length=MAX_RULES)] = ()
    """Whom the workload connects to besides `files`. Each must be a rule of the spec's `network.egress.allow`."""
    reuse: bool = False
    """Whether instances that have answered a call or an HTTP request answer further ones, with their state."""
    restart: bool = False
    """Whether runs need a keep that starts them again when its restart interrupted them."""
    features: Annotated[tuple[WasmFeature, ...], msgspec.Meta(max_length=len(WasmFeature))] = ()
    """What the workload may have of WebAssembly beyond what every one has. One that needs more is refused."""

    def __post_init__(self) -> None:
        kinds = [type(file) for file in self.files or ()]
        if kinds.count(StdinFile) > 1:
            raise ValueError("`files` names `stdin` twice")
        for feature in self.features:
            if self.features.count(feature) > 1:
                raise ValueError(f"`features` names {feature} twice")
        ports = [file.port for file in self.files or () if isinstance(file, ListenFile)]
        if self.http is not None and self.http.port is not None:
            ports.append(self.http.port)
        for port in ports:
            if ports.count(port) > 1:
                raise ValueError(f"two files listen on port {port}")


class ConfigurationInfo(msgspec.Struct, frozen=True):
    """A configuration that a keep has taken over. `digest` is the SHA-256 of its canonical bytes, in hex."""

    digest: str


def canonical(configuration: WorkloadConfiguration) -> bytes:
    """The one form in which a configuration is stored and digested: sorted keys, defaults left out."""
    return msgspec.json.encode(_reduced(configuration), order="sorted")


def _reduced(item: Any) -> Any:
    """`omit_defaults` compares by identity, so a default that was written out would stay and change the digest."""
    if isinstance(item, msgspec.Struct):
        kind = type(item)
        members = {
            field.name: _reduced(value)
            for field in msgspec.structs.fields(kind)
            if (value := getattr(item, field.name)) != _default(field)
        }
        config = kind.__struct_config__
        return members if config.tag_field is None else {config.tag_field: config.tag, **members}
    if isinstance(item, tuple):
        return [_reduced(each) for each in item]
    return item


def _default(field: msgspec.structs.FieldInfo) -> Any:
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()


def configuration_digest(configuration: WorkloadConfiguration) -> str:
    """SHA-256 of the canonical bytes, in hex: what evidence names."""
    return hashlib.sha256(canonical(configuration)).hexdigest()
