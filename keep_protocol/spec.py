"""The immutable description that a keep is started from, and its canonical bytes (RFC 8785)."""

from __future__ import annotations

import hashlib
from typing import Annotated, TypeAlias

import msgspec

from keep_protocol.network_policy import NetworkPolicy
from keep_protocol.secret_sources import MAX_SOURCES, SecretSource
from keep_protocol.states import AtRest, Backend, CrlPolicy, EvidenceKind, KeepRole

MiB = 1024 * 1024

MAX_SPEC_SIZE = 256 * 1024
"""Bytes of a canonical spec; a few dozen principals with their certificates fit."""

_Der: TypeAlias = Annotated[str, msgspec.Meta(min_length=4, max_length=16 * 1024, pattern="^[A-Za-z0-9+/]+={0,2}$")]
_Roles: TypeAlias = Annotated[
    tuple[KeepRole, ...], msgspec.Meta(min_length=1, max_length=5, extra_json_schema={"uniqueItems": True})
]

_PINNED = {
    "required": ["certificate"],
    "properties": {
        "certificate": {"type": "string"},
        "ca": {"type": "null"},
        "spiffe_id": {"type": "null"},
        "crl": {"type": "null"},
    },
}
_NAMED = {
    "required": ["ca", "spiffe_id", "crl"],
    "properties": {
        "certificate": {"type": "null"},
        "ca": {"type": "string"},
        "spiffe_id": {"type": "string"},
        "crl": {"type": "string"},
    },
}
_AN_OWNER = {"properties": {"roles": {"contains": {"const": KeepRole.OWNER.value}}}, "required": ["roles"]}
"""What `__post_init__` below demands, in JSON Schema for the descriptions of APIs."""


class Principal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Somebody a keep lets in: exactly one certificate, or one SPIFFE id under one CA.

    Either `certificate` alone, or `ca`, `spiffe_id` and `crl` together. Certificates are DER in base64.
    """

    roles: _Roles
    certificate: _Der | None = None
    ca: _Der | None = None
    spiffe_id: Annotated[str, msgspec.Meta(max_length=2048, pattern="^spiffe://[^/?#@:]+/[^?#]+$")] | None = None
    crl: CrlPolicy | None = None

    def __post_init__(self) -> None:
        pinned = self.certificate is not None
        named = (self.ca is not None, self.spiffe_id is not None, self.crl is not None)
        if pinned == any(named) or (any(named) and not all(named)):
            raise ValueError("a principal has either `certificate`, or all of `ca`, `spiffe_id` and `crl`")
        if len(set(self.roles)) != len(self.roles):
            raise ValueError("`roles` names a role twice")


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a keep may use. Sizes in bytes, times in seconds, `cpu` in percent of one processor."""

    memory: Annotated[int, msgspec.Meta(ge=64 * MiB, le=2**53 - 1)]
    """All processes of the keep together."""
    cpu: Annotated[int, msgspec.Meta(ge=1, le=100_000)]
    tasks: Annotated[int, msgspec.Meta(ge=16, le=1_000_000)]
    """Processes and threads."""
    workload: Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)]
    """Size of an uploaded `.wasm`."""
    files: Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
    """All of `input`, `output` and `data` together."""
    output: Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
    """Standard output and standard error of one run, together."""
    run_time: Annotated[int, msgspec.Meta(ge=1, le=10 * 365 * 86400)]
    """Wall-clock time of one run."""
    runs: Annotated[int, msgspec.Meta(ge=1, le=1024)]
    """Runs at the same time; further ones are queued."""


DEFAULT_LIMITS = Limits(
    memory=512 * MiB,
    cpu=100,
    tasks=128,
    workload=256 * MiB,
    files=1024 * MiB,
    output=64 * MiB,
    run_time=3600,
    runs=4,
)


EVIDENCE_OF_BACKEND: dict[Backend, tuple[EvidenceKind | None, ...]] = {
    Backend.PROCESS: (None, EvidenceKind.TPM, EvidenceKind.SIMULATED),
    Backend.QEMU: (None, EvidenceKind.SIMULATED),
    Backend.QEMU_VTPM: (EvidenceKind.TPM,),
    Backend.SNP: (EvidenceKind.SNP, EvidenceKind.AZURE_SNP),
    Backend.TDX: (EvidenceKind.TDX, EvidenceKind.AZURE_TDX),
    Backend.SGX: (EvidenceKind.SGX,),
    Backend.NITRO: (EvidenceKind.NITRO,),
}
"""What keeps of a backend can be asked to prove themselves with; None: nothing, they are only pinned."""


class KeepSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A keep as its owner wants it. Every field is written out, so the digest covers every default."""

    version: Annotated[int, msgspec.Meta(ge=1, le=1)]
    nonce: Annotated[str, msgspec.Meta(max_length=32, pattern="^[0-9a-f]{32}$")]
    """16 random bytes, so that two keeps never share a digest."""
    backend: Backend
    at_rest: AtRest
    """How its workload, files and outputs lie in its state folder."""
    evidence: EvidenceKind | None
    """What the keep proves itself with, in its certificate and on every connection that asks."""
    network: NetworkPolicy
    """Ports to listen on and hosts to connect to; `NO_NETWORK` unless it is named."""
    principals: Annotated[
        tuple[Annotated[Principal, msgspec.Meta(extra_json_schema={"oneOf": [_PINNED, _NAMED]})], ...],
        msgspec.Meta(min_length=1, max_length=64, extra_json_schema={"contains": _AN_OWNER}),
    ]
    limits: Limits
    restart_runs: bool
    """Start runs that a restart of the keep interrupted again, instead of reporting them `lost`."""
    secrets: Annotated[tuple[SecretSource, ...], msgspec.Meta(max_length=MAX_SOURCES)] = ()
    """Secrets that the keep fetches by its evidence, from its start on."""

    def __post_init__(self) -> None:
        if not any(KeepRole.OWNER in principal.roles for principal in self.principals):
            raise ValueError("`principals` names no `owner`")
        possible = EVIDENCE_OF_BACKEND[self.backend]
        if self.evidence not in possible:
            names = ", ".join("null" if kind is None else f'"{kind}"' for kind in possible)
            makers = [str(backend) for backend, kinds in EVIDENCE_OF_BACKEND.items() if self.evidence in kinds]
            wanted = "null" if self.evidence is None else f'"{self.evidence}"'
            raise ValueError(
                f"`evidence` of a {self.backend} keep is one of {names}; keeps with {wanted} are of the backend"
                f" {' or '.join(makers)}"
            )
        if self.secrets:
            # Most keeps have none and import nothing that checks them.
            from keep_protocol.secret_requests import check_sources

            check_sources(self.secrets, self.evidence, self.network.egress)


def canonical(spec: KeepSpec) -> bytes:
    """The spec as RFC 8785 JSON.

    All keys are ASCII, all numbers are integers below 2^53, so sorting keys is all that is left to do.
    """
    return msgspec.json.encode(spec, order="sorted")


def decode_spec(raw: bytes) -> KeepSpec:
    """The spec in `raw`, strictly. Raises `msgspec.ValidationError` or `msgspec.DecodeError`."""
    return msgspec.json.decode(raw, type=KeepSpec)


def spec_digest(raw: bytes) -> str:
    """SHA-256 of canonical bytes, in hex: what evidence and records are bound to."""
    return hashlib.sha256(raw).hexdigest()
