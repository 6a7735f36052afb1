"""Talks to the service manager: sd_notify(3), with descriptors for its store."""

from __future__ import annotations

import os
import socket
from array import array
from collections.abc import Sequence


class ServiceManager:
    """Whoever started this unit; silent when nobody listens."""

    def __init__(self, address: str | None) -> None:
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def close(self) -> None:
        """Say nothing any more."""
        self._socket.close()

    def notify(self, *assignments: str, descriptors: Sequence[int] = ()) -> None:
        """Send `assignments` as one message, `descriptors` along with it."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        # Not socket.send_fds(): it drops the address.
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))
        self._socket.sendmsg(["\n".join(assignments).encode()], [rights] if descriptors else [], 0, address)

    def store(self, name: str, descriptor: int, *, poll: bool = True) -> None:
        """Keep `descriptor` over restarts of this unit under `name`.

        Without `poll`, systemd does not watch it for errors: a memfd cannot be polled and would be refused.
        """
        self.notify("FDSTORE=1", f"FDNAME={name}", *([] if poll else ["FDPOLL=0"]), descriptors=[descriptor])

    def ready(self, status: str) -> None:
        """The unit has started."""
        self.notify("READY=1", f"STATUS={status}")

    def heartbeat(self) -> None:
        """The watchdog's sign of life."""
        self.notify("WATCHDOG=1")

    def stopping(self) -> None:
        """The unit is about to end."""
        self.notify("STOPPING=1")


def stored_descriptors(environment: dict[str, str]) -> dict[str, int]:
    """The descriptors that systemd passed, by name: sd_listen_fds_with_names(3).

    Their order is not stable over restarts, so only the name says what a descriptor is.
    """
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return {}
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    count = int(environment.get("LISTEN_FDS", "0"))
    descriptors: dict[str, int] = {}
    for number, name in zip(range(3, 3 + count), names, strict=False):
        os.set_inheritable(number, False)
        if name in descriptors:
            os.close(number)
        else:
            descriptors[name] = number
    return descriptors
