"""`python -m keep_loader.probe`: one line of JSON for each directive.

Each check runs in a child of its own: where the directive does not hold, the attempt succeeds and changes the child.
"""

from __future__ import annotations

import os
import sys

import msgspec

from keep_loader.probe import kernel, limits, privileges, views
from keep_loader.probe.results import Check
from keep_protocol.handover import SandboxFact


def main() -> int:
    """Without arguments all checks from inside the sandbox; `outside` what needs a socket that it forbids."""
    inside = (*privileges.CHECKS, *views.CHECKS, *kernel.CHECKS, *limits.CHECKS)
    for check in (kernel.address_deny,) if sys.argv[1:] == ["outside"] else inside:
        if (result := _in_child(check)) is not None:
            print(msgspec.json.encode(result).decode(), flush=True)
    return 0


def _in_child(check: Check) -> SandboxFact | None:
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_end)
        try:
            result = check()
        except Exception as error:
            print(f"{check.__name__}: {error!r}", file=sys.stderr, flush=True)
            os._exit(1)
        os.write(write_end, msgspec.json.encode(result))
        os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    if not answer:
        # SystemCallArchitectures= kills whoever calls by the other gate: its check does not come back when it holds.
        return kernel.killed_by_architecture() if check is kernel.system_call_architectures else None
    return msgspec.json.decode(answer, type=SandboxFact | None)


if __name__ == "__main__":
    sys.exit(main())
