"""What a runner is before its first order: a fork that has let go of the server and sleeps.

Whatever it did, even an import, would write to pages that it shares with the server, and the keep would have them
twice; it would also take time from the server while that starts.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
from pathlib import Path
from typing import NoReturn

from app_loader.kernel import die_with, set_name
from app_loader.runner_messages import Failed, order_encoder


def sleep_until_ordered(channel: socket.socket, parent: int, state: Path) -> NoReturn:
    """Be the runner in a process that was forked for it, until the server closes its end of `channel`."""
    status = 1
    try:
        die_with(parent, signal.SIGKILL)
        set_name("keep-runner")
        _forget_the_server(channel.fileno())
        if channel.recv(1, socket.MSG_PEEK):
            # Here, so that neither the server nor a keep without a workload pays for what only runs need.
            from app_loader.runner_process import become_runner

            become_runner(channel, state)
        status = 0
    except BaseException as error:
        with contextlib.suppress(OSError):
            channel.send(order_encoder.encode(Failed(f"{type(error).__name__}: {error}"[:4096])))
    finally:
        os._exit(status)


def _forget_the_server(channel: int) -> None:
    """Drop all that a fork inherits and a runner has no use for: descriptors, environment, signal handlers."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    # A terminal's ^C reaches the whole process group; the server decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.clear()
    for name in os.listdir("/proc/self/fd"):
        if (descriptor := int(name)) != channel and descriptor > 2:
            with contextlib.suppress(OSError):  # the one that listed the folder
                os.close(descriptor)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor, inheritable=True)
    os.close(null)
    # Collections would write to every object's header and so unshare the server's pages.
    gc.disable()
    gc.freeze()
