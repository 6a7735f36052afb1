"""OpenSSL in a machine that QEMU translates instead of running it: the code that is fast there, and which cipher.

A translator turns each vector instruction into many, or into a call: what is fastest on a processor is not in it. Told
nothing, OpenSSL does TLS 5 to 10 times slower than it can there, and SHA-256 4 times.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

CONFIGURATION: Final = b"""\
openssl_conf = all
[all]
ssl_conf = tls
[tls]
system_default = contexts
[contexts]
Ciphersuites = TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384
"""
"""Python 3.11 cannot choose the ciphers of TLS 1.3 itself. ChaCha20 is plain arithmetic; AES is a call of the
translator's for each instruction."""

CAPABILITIES_VARIABLE: Final = "OPENSSL_ia32cap"
CAPABILITIES: Final = "~0x1000020000000000:~0x20000020"
"""For OPENSSL_ia32cap(3): no AVX (bit 60), SSSE3 (41), AVX2 (64 + 5) and SHA extensions (64 + 29).

What is left has no data-dependent times either. AES-NI stays: without it AES would look up tables.
"""

_FILE: Final = Path("/run/openssl.cnf")
_PROCESSORS: Final = Path("/proc/cpuinfo")
_TRANSLATED: Final = "QEMU TCG CPU"
"""How QEMU names its model `max` where it translates; with KVM it has the host's name."""


def prepare(processors: Path = _PROCESSORS, file: Path = _FILE) -> None:
    """Must come before anything loads OpenSSL, `hashlib` included: it looks at the processor once, when it is loaded.

    A host that lies about its processor makes its guest slower, no less safe.
    """
    if is_translated(processors):
        file.write_bytes(CONFIGURATION)
        file.chmod(0o644)
        os.environ[CAPABILITIES_VARIABLE] = CAPABILITIES
        os.environ["OPENSSL_CONF"] = str(file)


def is_translated(processors: Path = _PROCESSORS) -> bool:
    """Whether QEMU's translator runs this machine."""
    with processors.open(encoding="ascii", errors="replace") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip().startswith(_TRANSLATED)
    return False
