"""A large upload by curl over mutual TLS, into a keep and into nginx; the keep's memory while it takes it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import nginx
from benchmarks.measurement import Comparison, Omission, Row, Sample, Target, interleaved
from benchmarks.processes import settled_memory, tree, unshared_memory
from benchmarks.session import Session
from keep_client import Credentials, Home, KeepClient
from keep_protocol.digests import content_digest
from keep_protocol.manager_api import Keep

_SPEED = Target(Comparison.SPEED, 0.3)
_GROWTH = Target(Comparison.VALUE, 8)
_MIB = 1024 * 1024
_SAMPLING = 0.01
"""Seconds between two readings of a keep's memory."""

# `(module (func (export "_start")))`, in binary.
_COMMAND = (
    b"\0asm\1\0\0\0"
    b"\1\4\1\x60\0\0"  # types: one, of functions without parameters and results
    b"\3\2\1\0"  # functions: one, of that type
    b"\7\n\1\6_start\0\0"  # exports: that function
    b"\n\4\1\2\0\x0b"  # code: nothing but its end
)


@dataclass(frozen=True, slots=True)
class _File:
    """What is sent."""

    path: Path
    digest: bytes

    @classmethod
    def make(cls, path: Path, size: int) -> _File:
        """A module that is a large custom section for the most part, so that compiling it costs next to nothing."""
        content = _COMMAND + b"\0" + _leb128(size + 2) + b"\1x" + os.urandom(size)
        path.write_bytes(content)
        return cls(path, hashlib.sha256(content).digest())


class _Uploads:
    """Sends one file to one keep, or to an nginx, as the operator of a deployment."""

    def __init__(self, file: _File, operator: Credentials, keep: Keep, client: KeepClient, folder: Path) -> None:
        if keep.certificate is None:
            raise RuntimeError("a keep that is ready has no certificate")
        self._file = file
        self._client = client
        self._operator = operator
        self._endpoint = f"https://{keep.endpoint}"
        self._certificate = folder / "keep.pem"
        self._certificate.write_text(keep.certificate)

    def to_files(self) -> None:
        """The keep compares what arrives with its digest before it answers."""
        self._to_keep("/v1/files/input/large", "application/octet-stream")

    def to_workload(self) -> None:
        """The same, and it is compiled: the keep has forgotten the last one."""
        self._client.remove_workload()
        self._to_keep("/v1/workload", "application/wasm")

    def to_nginx(self, url: str, ca: Path, stored: Path) -> None:
        """nginx checks nothing, so that is done after."""
        self._send(f"{url}/large", ca)
        done = subprocess.run(["sha256sum", stored / "large"], check=True, capture_output=True, text=True)
        if done.stdout.split()[0] != self._file.digest.hex():
            raise RuntimeError("nginx stored something else than was sent")

    def _to_keep(self, path: str, media_type: str) -> None:
        digest = content_digest(self._file.digest)
        fields = ["--header", f"Content-Type: {media_type}", "--header", f"Content-Digest: {digest}"]
        self._send(self._endpoint + path, self._certificate, *fields)

    def _send(self, url: str, ca: Path, *options: str) -> None:
        identity = ["--cert", str(self._operator.certificate), "--key", str(self._operator.key), "--cacert", str(ca)]
        command = ["curl", "--silent", "--show-error", "--fail-with-body", "--output", os.devnull, *identity]
        # Without `Expect:`, curl would wait for the server's word before it sends a byte.
        command += ["--header", "Expect:", *options, "--upload-file", str(self._file.path), url]
        subprocess.run(command, check=True, timeout=120)


def measure(session: Session) -> list[Row | Omission]:
    """Time and memory are read in different uploads: reading memory takes time."""
    size = 8 if session.quick else 100
    file = _File.make(session.folder / "large.wasm", size * _MIB)
    with session.deployment() as deployment, session.client(deployment) as client, client.keep() as (keep, connection):
        if keep.pid is None:
            raise RuntimeError("a keep that is ready has no process")
        home, server = Home(deployment.home), keep.pid
        uploads = _Uploads(file, home.operator, keep, connection, session.folder)
        rows = _against_nginx(session, home, client.manager.ca, uploads, size)
        whole = [_growth(lambda: tree(server), uploads.to_files) for _ in range(session.rounds)]
        server_only = [_growth(lambda: [server], uploads.to_workload) for _ in range(session.rounds)]
    how = f"– (USS every {_SAMPLING * 1000:g} ms: peak less that before)"
    compiler = f"{how}; the compiling process, which ends after it, has all of it in memory"
    return [
        *rows,
        Row(f"memory that a keep takes while {size} MiB go to `files`", how, Sample.of("MiB", whole), None, _GROWTH),
        Row(
            f"memory that its server takes while {size} MiB go to `workload`",
            compiler,
            Sample.of("MiB", server_only),
            None,
            _GROWTH,
        ),
    ]


def _against_nginx(session: Session, home: Home, ca: Path, uploads: _Uploads, size: int) -> list[Row | Omission]:
    names = (
        f"{size} MiB upload over mTLS by curl to `PUT /v1/files/…`: digest checked, on disk",
        f"{size} MiB upload over mTLS by curl to `PUT /v1/workload`: digest checked, compiled, on disk",
    )
    program = nginx.program()
    if program is None:
        return [Omission(name, nginx.MISSING) for name in names]
    with nginx.serving(program, home, session.folder / "nginx") as (url, stored):
        *keep, baseline = (
            Sample("s", values)
            for values in interleaved(
                session.rounds,
                lambda: _seconds(uploads.to_files),
                lambda: _seconds(uploads.to_workload),
                lambda: _seconds(lambda: uploads.to_nginx(url, ca, stored)),
            )
        )
    against = f"the same to nginx {nginx.version(program)}, then `sha256sum` of what it stored"
    return [Row(name, against, sample, baseline, _SPEED) for name, sample in zip(names, keep, strict=True)]


def _seconds(act: Callable[[], None]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def _growth(processes: Callable[[], list[int]], act: Callable[[], None]) -> float:
    """By how many MiB the unshared memory of `processes` exceeds what it was, at most, while `act` is done."""
    before = peak = settled_memory(processes)
    done = threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.wait(_SAMPLING):
            peak = max(peak, unshared_memory(processes()))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        act()
    finally:
        done.set()
        sampler.join()
    return peak - before


def _leb128(number: int) -> bytes:
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
