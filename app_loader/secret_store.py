"""The secrets of a keep: in the memory of its server and nowhere else, overwritten when they go."""

from __future__ import annotations

import asyncio
import re
import resource
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from app_loader.clock import now
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.secret_api import MAX_SECRET, MAX_SECRETS, SECRET_NAME_PATTERN, SECRET_NAME_RULE, SecretInfo


def wipe(value: bytearray) -> None:
    """Overwrite a value in place. Copies that Python or OpenSSL made on the way are out of anybody's reach."""
    value[:] = bytes(len(value))


class _Secret:
    def __init__(self, name: str, value: bytearray, ttl: float | None, clock: Callable[[], float]) -> None:
        expires_at = None
        if ttl is not None:
            expiry = datetime.now(UTC) + timedelta(seconds=ttl)
            expires_at = expiry.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self.value = value
        self.info = SecretInfo(name, len(value), now(), expires_at)
        self.deadline = None if ttl is None else clock() + ttl
        self.timer: asyncio.TimerHandle | None = None

    def wipe(self) -> None:
        wipe(self.value)
        if self.timer is not None:
            self.timer.cancel()


class SecretStore:
    """Secrets by name. What is removed, replaced or expired is overwritten."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` counts seconds and is what times to live are measured by."""
        self._clock = clock
        self._secrets: dict[str, _Secret] = {}

    def put(self, name: str, value: bytearray, ttl: float | None = None) -> tuple[SecretInfo, bool]:
        """Keep `value`, which is the store's own from now on; whether the name is new. In a running event loop.

        `ttl` is in seconds. Raises `RefusalError`.
        """
        try:
            return self._put(name, value, ttl)
        except RefusalError:
            wipe(value)
            raise

    def get(self, name: str) -> bytearray:
        """The value itself and no copy: it is not to be changed. Raises `RefusalError` (`secret-not-found`)."""
        return self._find(name).value

    def holds(self, name: str) -> bool:
        """Whether there is such a secret now."""
        return self._lives(name)

    def remove(self, name: str) -> None:
        """Forget one secret. Raises `RefusalError` (`secret-not-found`)."""
        self._find(name)
        self._forget(name)

    def list(self) -> tuple[SecretInfo, ...]:
        """All secrets without their values, by name."""
        return tuple(self._find(name).info for name in sorted(self._secrets) if self._lives(name))

    def close(self) -> None:
        """Forget all."""
        for name in tuple(self._secrets):
            self._forget(name)

    def _put(self, name: str, value: bytearray, ttl: float | None) -> tuple[SecretInfo, bool]:
        if not re.fullmatch(SECRET_NAME_PATTERN, name):
            raise RefusalError(ErrorCode.NAME_INVALID, f"the name of a secret is {SECRET_NAME_RULE}", field="name")
        if len(value) > MAX_SECRET:
            raise RefusalError(ErrorCode.BODY_TOO_LARGE, f"a secret has at most {MAX_SECRET} bytes")
        replaced = self._lives(name)
        if not replaced and len(self._secrets) >= MAX_SECRETS:
            raise RefusalError(
                ErrorCode.LIMIT_EXCEEDED, f"a keep holds at most {MAX_SECRETS} secrets", remedy="remove others first"
            )
        # A crash must not write memory to a disk, wherever no unit has said so already.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if replaced:
            self._forget(name)
        secret = self._secrets[name] = _Secret(name, value, ttl, self._clock)
        if ttl is not None:
            secret.timer = asyncio.get_running_loop().call_later(ttl, self._expire, name, secret)
        return secret.info, not replaced

    def _find(self, name: str) -> _Secret:
        if not self._lives(name):
            raise RefusalError(ErrorCode.SECRET_NOT_FOUND, f"there is no secret {name[:64]!r}")
        return self._secrets[name]

    def _lives(self, name: str) -> bool:
        """Whether there is such a secret; one whose time is over is forgotten here, if its timer is late."""
        secret = self._secrets.get(name)
        if secret is not None and secret.deadline is not None and self._clock() >= secret.deadline:
            self._forget(name)
            return False
        return secret is not None

    def _expire(self, name: str, secret: _Secret) -> None:
        if self._secrets.get(name) is secret:
            self._forget(name)

    def _forget(self, name: str) -> None:
        self._secrets.pop(name).wipe()
