"""The keep's own key and certificate: born in this process, in memory only, renewed in place."""

from __future__ import annotations

import base64
import os
import ssl
import time
from collections.abc import Callable
from typing import Final

from app_loader.certificates import self_signed
from app_loader.libcrypto import Key

LIFETIME: Final = 24 * 3600
"""Seconds from a certificate's beginning to its end."""

BACKDATED: Final = 300
"""Seconds that a certificate begins in the past, for clients whose clock is behind."""


class Identity:
    """A key for the life of the process, and the certificate that names the keep by it.

    `evidence` makes a CMW collection for the key's SubjectPublicKeyInfo, anew for every certificate.
    """

    def __init__(
        self,
        keep_id: str,
        domain: str,
        names: tuple[str, ...],
        *,
        evidence: Callable[[bytes], bytes] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._common_name = keep_id
        self._names = tuple(dict.fromkeys((f"{keep_id}.keep.{domain}", *names)))
        self._clock = clock
        self._evidence = evidence
        self._key = Key()
        self.spki = self._key.public()
        self.renew()

    def renew(self) -> None:
        """Make another certificate for the same key. Raises `IdentityError` or `AttesterError`."""
        begin = self._clock() - BACKDATED
        der = self_signed(
            self._key,
            common_name=self._common_name,
            names=self._names,
            not_before=begin,
            not_after=begin + LIFETIME,
            evidence=None if self._evidence is None else self._evidence(self.spki),
        )
        self.certificate = _pem(der)
        self.renew_at = begin + LIFETIME / 2

    @property
    def due(self) -> bool:
        """Whether half of the certificate's life is over."""
        return self._clock() >= self.renew_at

    def load_into(self, context: ssl.SSLContext) -> None:
        """Give key and certificate to a TLS context.

        Python's ssl reads them from a path only; this one is memory that no other process sees.
        """
        descriptor = os.memfd_create("identity", os.MFD_CLOEXEC)
        try:
            self._key.write_pem(descriptor)
            os.write(descriptor, self.certificate.encode())
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        finally:
            size = os.fstat(descriptor).st_size
            os.pwrite(descriptor, bytes(size), 0)
            os.close(descriptor)


def _pem(der: bytes) -> str:
    body = base64.b64encode(der).decode()
    lines = (body[start : start + 64] for start in range(0, len(body), 64))
    return "\n".join(("-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""))
