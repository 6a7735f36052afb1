"""Decides whether a keep may be made: its name, its spec, the host's limits, the owner's quota."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from keep_manager.entry import KeepEntry
from keep_manager.roles import Quota
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.machine import MIN_GUEST_MEMORY
from keep_protocol.names import NAME_RULE, is_keep_name
from keep_protocol.spec import MAX_SPEC_SIZE, KeepSpec, Limits


@dataclass(frozen=True, slots=True)
class HostCapacity:
    """What this host has; sizes in bytes, `cpu` in percent of one processor."""

    memory: int
    cpu: int
    tasks: int
    disk: int

    @classmethod
    def measure(cls, state: Path) -> HostCapacity:
        """Of this machine; `state` lies on the file system that keeps write to."""
        pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
        while not state.exists():
            state = state.parent
        disk = os.statvfs(state)
        return cls(
            memory=pages * page,
            cpu=(os.cpu_count() or 1) * 100,
            tasks=int(Path("/proc/sys/kernel/threads-max").read_text()),
            disk=disk.f_blocks * disk.f_frsize,
        )


def check_name(name: str, owner: str, keeps: Collection[KeepEntry]) -> None:
    """Raises `RefusalError`: `name-invalid`, or `name-taken` by another keep of the owner."""
    if not is_keep_name(name):
        shown = name if len(name) <= 80 else f"{name[:80]}…"
        raise RefusalError(
            ErrorCode.NAME_INVALID, f"{shown!r} cannot name a keep", field="name", remedy=f"use {NAME_RULE}"
        )
    if any(entry.owner == owner and entry.row.name == name for entry in keeps):
        raise RefusalError(
            ErrorCode.NAME_TAKEN,
            f"you have a keep named {name!r} already",
            field="name",
            remedy="choose another name, or remove that keep",
        )


def check_spec(spec: KeepSpec, canonical: bytes) -> None:
    """Raises `RefusalError` (`spec-invalid`) for what types cannot say: the size, and what certificates are."""
    if len(canonical) > MAX_SPEC_SIZE:
        raise RefusalError(
            ErrorCode.SPEC_INVALID,
            f"the spec has {len(canonical)} bytes, more than {MAX_SPEC_SIZE}",
            field="spec",
            remedy="name fewer principals; several can share a CA",
        )
    for index, principal in enumerate(spec.principals):
        for field in ("certificate", "ca"):
            encoded = getattr(principal, field)
            if encoded is not None:
                _check_certificate(encoded, f"spec.principals[{index}].{field}", signs=field == "ca")


def check_authorities(spec: KeepSpec, own: Iterable[bytes]) -> None:
    """Raises `RefusalError` (`spec-invalid`) where the keep distrusts the host, and the host could name its principals.

    `own` are the CAs (DER) whose keys are on the host; another certificate of the same key is no better.
    """
    if not spec.backend.is_measured:
        return
    keys = frozenset(map(_public_key, own))
    for index, principal in enumerate(spec.principals):
        if principal.ca is not None and _public_key(base64.b64decode(principal.ca)) in keys:
            raise RefusalError(
                ErrorCode.SPEC_INVALID,
                f"the CA is this host's own, and a {spec.backend} keep trusts nothing that the host can sign",
                field=f"spec.principals[{index}].ca",
                remedy="name the principal by its own certificate, or by a CA whose key is elsewhere",
            )


def _public_key(certificate: bytes) -> bytes:
    key = x509.load_der_x509_certificate(certificate).public_key()
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def check_capacity(limits: Limits, host: HostCapacity) -> None:
    """Raises `RefusalError` (`limit-exceeded`) for a limit beyond what the host has at all."""
    for field, wanted, has in (
        ("memory", limits.memory, host.memory),
        ("cpu", limits.cpu, host.cpu),
        ("tasks", limits.tasks, host.tasks),
        ("workload", limits.workload, host.disk),
        ("files", limits.files, host.disk),
        ("output", limits.output, host.disk),
    ):
        if wanted > has:
            raise RefusalError(
                ErrorCode.LIMIT_EXCEEDED,
                f"`{field}` is {wanted}, and this host has {has}",
                field=f"spec.limits.{field}",
                remedy=f"ask for at most {has}",
            )


def check_machine(spec: KeepSpec) -> None:
    """Raises `RefusalError` for a virtual machine with too little memory to start in."""
    if spec.limits.memory < MIN_GUEST_MEMORY:
        raise RefusalError(
            ErrorCode.LIMIT_EXCEEDED,
            f"`memory` is {spec.limits.memory}, and the kernel of a {spec.backend} keep lives in it too",
            field="spec.limits.memory",
            remedy=f"ask for at least {MIN_GUEST_MEMORY}",
        )


def check_quota(limits: Limits, quota: Quota, own: Collection[KeepEntry]) -> None:
    """Raises `RefusalError` (`quota-exceeded`) when the owner's keeps together would pass the quota."""
    keeps = [*(entry.spec.limits for entry in own), limits]
    for what, used, allowed in (
        ("keeps", len(keeps), quota.max_keeps),
        ("bytes of memory", sum(keep.memory for keep in keeps), quota.max_memory),
        ("bytes of disk", sum(keep.files + keep.workload for keep in keeps), quota.max_disk),
    ):
        if used > allowed:
            raise RefusalError(
                ErrorCode.QUOTA_EXCEEDED,
                f"this would make {used} {what}, and your quota is {allowed}",
                remedy="remove a keep, ask for less, or ask the operator for a larger quota",
            )


def check_owner(owner: str, keeps: Collection[KeepEntry], *, separated: bool) -> None:
    """Raises `RefusalError` (`owner-refused`) when keeps of two owners would run under one user."""
    if not separated and any(entry.owner != owner for entry in keeps):
        raise RefusalError(
            ErrorCode.OWNER_REFUSED,
            "keeps of another owner are here, and this supervisor runs all keeps under one user",
            remedy="use a host with the system manager, or have the operator set keeps.allow_shared_uid = true",
        )


def _check_certificate(encoded: str, field: str, *, signs: bool) -> None:
    remedy = "give the certificate as DER in base64"
    try:
        certificate = x509.load_der_x509_certificate(base64.b64decode(encoded, validate=True))
        certificate.public_key()
        if not signs or _may_sign(certificate.extensions):
            return
        # A keep refuses it too, but only after it has been started in vain.
        reason = "is a certificate that may not sign others"
        remedy = "give the certificate of the CA; a client's own is for `certificate`"
    except binascii.Error as error:
        reason = f"is not base64: {error}"
    except Exception as error:  # cryptography raises many kinds for malformed input
        reason = f"is not a certificate in DER: {error}"
    raise RefusalError(ErrorCode.SPEC_INVALID, f"`{field}` {reason}", field=field, remedy=remedy)


def _may_sign(extensions: x509.Extensions) -> bool:
    """As OpenSSL's X509_check_ca(3) for certificates of version 3."""
    found = {type(extension.value): extension.value for extension in extensions}
    constraints, usage = found.get(x509.BasicConstraints), found.get(x509.KeyUsage)
    if isinstance(usage, x509.KeyUsage) and not usage.key_cert_sign:
        return False
    return isinstance(constraints, x509.BasicConstraints) and constraints.ca
