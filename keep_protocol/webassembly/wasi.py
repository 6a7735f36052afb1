"""What a keep gives its guests: the functions of WASI preview 1 and the interfaces of WASI 0.2."""

from __future__ import annotations

import re

from keep_protocol.webassembly.core_types import FunctionType

PREVIEW1 = "wasi_snapshot_preview1"

_PREVIEW1_PARAMETERS = """
args_get i32 i32
args_sizes_get i32 i32
clock_res_get i32 i32
clock_time_get i32 i64 i32
environ_get i32 i32
environ_sizes_get i32 i32
fd_advise i32 i64 i64 i32
fd_allocate i32 i64 i64
fd_close i32
fd_datasync i32
fd_fdstat_get i32 i32
fd_fdstat_set_flags i32 i32
fd_fdstat_set_rights i32 i64 i64
fd_filestat_get i32 i32
fd_filestat_set_size i32 i64
fd_filestat_set_times i32 i64 i64 i32
fd_pread i32 i32 i32 i64 i32
fd_prestat_dir_name i32 i32 i32
fd_prestat_get i32 i32
fd_pwrite i32 i32 i32 i64 i32
fd_read i32 i32 i32 i32
fd_readdir i32 i32 i32 i64 i32
fd_renumber i32 i32
fd_seek i32 i64 i32 i32
fd_sync i32
fd_tell i32 i32
fd_write i32 i32 i32 i32
path_create_directory i32 i32 i32
path_filestat_get i32 i32 i32 i32 i32
path_filestat_set_times i32 i32 i32 i32 i64 i64 i32
path_link i32 i32 i32 i32 i32 i32 i32
path_open i32 i32 i32 i32 i32 i64 i64 i32 i32
path_readlink i32 i32 i32 i32 i32 i32
path_remove_directory i32 i32 i32
path_rename i32 i32 i32 i32 i32 i32
path_symlink i32 i32 i32 i32 i32
path_unlink_file i32 i32 i32
poll_oneoff i32 i32 i32 i32
proc_exit i32
proc_raise i32
random_get i32 i32
sched_yield
sock_accept i32 i32 i32
sock_recv i32 i32 i32 i32 i32 i32
sock_send i32 i32 i32 i32 i32
sock_shutdown i32 i32
"""


def _functions() -> dict[str, FunctionType]:
    """All but `proc_exit` return an errno."""
    lines = (line.split() for line in _PREVIEW1_PARAMETERS.split("\n") if line)
    return {name: FunctionType(tuple(taken), () if name == "proc_exit" else ("i32",)) for name, *taken in lines}


PREVIEW1_FUNCTIONS = _functions()
"""The functions of `wasi_snapshot_preview1` with their types."""

PREVIEW1_SOCKETS = frozenset({"sock_accept", "sock_recv", "sock_send", "sock_shutdown"})
"""They work on the sockets that a workload's configuration names."""

INTERFACES = frozenset(
    {
        *(f"wasi:cli/{name}" for name in ("environment", "exit", "stdin", "stdout", "stderr")),
        *(f"wasi:cli/terminal-{name}" for name in ("input", "output", "stdin", "stdout", "stderr")),
        *("wasi:clocks/monotonic-clock", "wasi:clocks/wall-clock"),
        *("wasi:filesystem/types", "wasi:filesystem/preopens"),
        *("wasi:io/error", "wasi:io/poll", "wasi:io/streams"),
        *("wasi:random/random", "wasi:random/insecure", "wasi:random/insecure-seed"),
        *(f"wasi:sockets/{name}" for name in ("network", "instance-network", "ip-name-lookup")),
        *(f"wasi:sockets/{name}" for name in ("tcp", "tcp-create-socket", "udp", "udp-create-socket")),
    }
)
"""The interfaces that components may import, without their version, which is any 0.2."""

HTTP_INTERFACES = frozenset({"wasi:http/types", "wasi:http/outgoing-handler"})
"""What components that answer HTTP requests may import on top."""

SOCKETS = "wasi:sockets/"

COMMAND = "wasi:cli/run"
PROXY = "wasi:http/incoming-handler"

_VERSIONED = re.compile(r"(?P<interface>[^@]+)@(?P<version>[0-9A-Za-z.+-]+)")
_SUPPORTED = re.compile(r"0\.2\.\d+")


def split_version(name: str) -> tuple[str, str | None]:
    """`wasi:cli/run@0.2.0` as the interface and its version, which is None where there is none."""
    match = _VERSIONED.fullmatch(name)
    return (match["interface"], match["version"]) if match else (name, None)


def is_supported(version: str | None) -> bool:
    """Whether it is a version of WASI 0.2; all of them fit each other. Snapshots like 0.2.0-rc-2023-11-10 do not."""
    return version is not None and _SUPPORTED.fullmatch(version) is not None
