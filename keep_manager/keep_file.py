"""Reads a keep's `keep.json`, which is written by the least trusted party there is: the keep."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from keep_manager.errors import KeepFileError
from keep_protocol.handover import MAX_KEEP_FILE, PROTOCOL_VERSION, KeepFile, SandboxFact
from keep_protocol.machine import MachineStart
from keep_protocol.strict_json import decode_strictly


@dataclass(frozen=True, slots=True)
class PublishedFacts:
    """What a keep says of itself: its certificate, and how its sandbox looked from inside."""

    certificate: str
    """PEM, as our own encoder writes it."""
    spki_sha256: str
    sandbox: tuple[SandboxFact, ...]
    start: MachineStart | None


def read_keep_file(folder: Path, invocation: str) -> PublishedFacts:
    """The facts that the keep in this life has published in its runtime folder. Raises `KeepFileError`.

    `folder` belongs to the keep: it may hold links, pipes, files of others or huge ones.
    """
    raw = _read(folder / "keep.json")
    try:
        document = decode_strictly(raw, KeepFile)
    except msgspec.DecodeError as error:
        raise KeepFileError(f"keep.json is malformed: {error}") from None
    if document.version != PROTOCOL_VERSION:
        raise KeepFileError(f"keep.json has version {document.version}, not {PROTOCOL_VERSION}")
    if document.invocation != invocation:
        raise KeepFileError(f"keep.json is of the invocation {document.invocation[:64]!r}, the unit's is {invocation}")
    try:
        certificate = x509.load_pem_x509_certificate(document.certificate.encode())
        pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
        spki = spki_digest(certificate)
    except Exception as error:  # cryptography raises many kinds for malformed input
        raise KeepFileError(f"the certificate in keep.json is unusable: {error}") from None
    return PublishedFacts(pem, spki, document.sandbox, document.start)


def spki_digest(certificate: x509.Certificate) -> str:
    """SHA-256 of the SubjectPublicKeyInfo in hex: what clients pin."""
    info = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(info).hexdigest()


def spki_digest_of(certificate: bytes) -> str:
    """The same of a certificate in DER. Raises `ValueError`."""
    return spki_digest(x509.load_der_x509_certificate(certificate))


def _read(path: Path) -> bytes:
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise KeepFileError(f"{path.parent} is not a folder: {error.strerror}") from None
    try:
        # O_NONBLOCK: opening a FIFO must not wait for its writer.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(path.name, flags, dir_fd=folder)
        except OSError as error:
            raise KeepFileError(f"{path} cannot be opened without following links: {error.strerror}") from None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
                raise KeepFileError(f"{path} is not a regular file with one name")
            if status.st_uid != (owner := os.fstat(folder).st_uid):
                raise KeepFileError(f"{path} belongs to user {status.st_uid}, its folder to {owner}")
            if status.st_size > MAX_KEEP_FILE:
                raise KeepFileError(f"{path} has {status.st_size} bytes, more than {MAX_KEEP_FILE}")
            # It may grow while we read.
            content = os.read(descriptor, MAX_KEEP_FILE + 1)
        finally:
            os.close(descriptor)
    finally:
        os.close(folder)
    if len(content) > MAX_KEEP_FILE:
        raise KeepFileError(f"{path} has more than {MAX_KEEP_FILE} bytes")
    return content
