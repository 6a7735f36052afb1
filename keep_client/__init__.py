"""The Python SDK: manage keeps, and work with them without sending a byte to the wrong one."""

from __future__ import annotations

from keep_client.async_following import follow_run_async
from keep_client.async_keep import AsyncKeepClient
from keep_client.async_manager import AsyncManagerClient
from keep_client.connect import connect_keep, connect_keep_async
from keep_client.credentials import Credentials, Home
from keep_client.errors import (
    ConnectionBrokenError,
    ConnectionFailedError,
    EvidenceRefusedError,
    IdentityRefusedError,
    ImpostorError,
    InvalidArgumentError,
    KeepClientError,
    KeyMismatchError,
    NotAFileError,
    NotAFolderError,
    PeerRefusedError,
    ProblemError,
    ProtocolError,
    RuntimeBuildError,
    SpecMismatchError,
)
from keep_client.following import follow_run
from keep_client.keep import KeepClient
from keep_client.keep_calls import Called
from keep_client.manager import ManagerClient
from keep_client.pins import KeepPin
from keep_client.secret_calls import SealedData, UnsealedData
from keep_client.sources import Source
from keep_client.specs import named_principal, new_spec, pinned_principal, principal_of
from keep_client.watch import WatchReport, WatchState, watch_keep
from keep_client.workload_http import AsyncWorkloadResponse, WorkloadResponse

__all__ = [
    "AsyncKeepClient",
    "AsyncManagerClient",
    "AsyncWorkloadResponse",
    "Called",
    "ConnectionBrokenError",
    "ConnectionFailedError",
    "Credentials",
    "EvidenceRefusedError",
    "Home",
    "IdentityRefusedError",
    "ImpostorError",
    "InvalidArgumentError",
    "KeepClient",
    "KeepClientError",
    "KeepPin",
    "KeyMismatchError",
    "ManagerClient",
    "NotAFileError",
    "NotAFolderError",
    "PeerRefusedError",
    "ProblemError",
    "ProtocolError",
    "RuntimeBuildError",
    "SealedData",
    "Source",
    "SpecMismatchError",
    "UnsealedData",
    "WatchReport",
    "WatchState",
    "WorkloadResponse",
    "connect_keep",
    "connect_keep_async",
    "follow_run",
    "follow_run_async",
    "named_principal",
    "new_spec",
    "pinned_principal",
    "principal_of",
    "watch_keep",
]
