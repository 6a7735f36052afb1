"""The host's certificates of authorities, for processes that can open no files."""

from __future__ import annotations

import contextlib
import os
import ssl
from pathlib import Path

_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # openSUSE
)


class TrustedRoots:
    """A file in memory with all of them; made when it is first wanted."""

    def __init__(self, bundle: Path | None = None) -> None:
        self._bundle = bundle
        self._memfd: int | None = None

    def descriptor(self) -> int:
        """A descriptor of that file, which is the caller's to close. The file is empty where the host has no bundle."""
        if self._memfd is None:
            self._memfd = os.memfd_create("roots", os.MFD_CLOEXEC)
            os.write(self._memfd, self._read())
        return os.dup(self._memfd)

    def close(self) -> None:
        """Forget the file; processes that have it keep it."""
        if self._memfd is not None:
            os.close(self._memfd)
            self._memfd = None

    def _read(self) -> bytes:
        known = ssl.get_default_verify_paths().cafile
        for path in (self._bundle,) if self._bundle else (*filter(None, (known,)), *_BUNDLES):
            with contextlib.suppress(OSError):
                return Path(path).read_bytes()
        return b""
