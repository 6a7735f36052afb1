"""Step one of the demo: ask a keep-manager what it has, make keeps, prepare one for a workload."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from keep_client import KeepClientError, ManagerClient, new_spec
from keep_protocol import __version__
from keep_protocol.manager_api import Keep
from keep_protocol.states import Backend, KeepState
from testers.deployment import Deployment, add_connection_options, error_line, printable
from testers.keepctl.connecting import open_keep
from testers.keepctl.specification import principals_of

HELLO = Path(__file__).resolve().parent.parent / "examples" / "hello" / "hello.wasm"
KEEPS = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    options = _parser().parse_args(arguments)
    deployment = Deployment.from_options(options)
    try:
        with deployment.connect() as manager:
            _report(manager)
            made = _make(manager, deployment, _count(options))
            chosen = made[0] if made else _ready(manager)
            _prepare(manager, deployment, chosen)
    except (KeepClientError, OSError) as error:
        print(f"keep-manager-tester: {error_line(error)}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, EOFError):
        print()
        return 130
    second = ["app-loader-tester", *deployment.arguments(), "--keep", chosen.id, "--wasm", str(options.wasm)]
    print(f"\nNow run:\n\n  {shlex.join(second)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="keep-manager-tester",
        description="Ask a keep-manager what it has, make keeps, and prepare one for app-loader-tester.",
        epilog="examples:\n  keep-manager-tester --home .demo\n  keep-manager-tester --home .demo --yes --keeps 3",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_connection_options(parser)
    parser.add_argument("--keeps", metavar="N", type=int, help=f"keeps to make (default: ask, or {KEEPS} with --yes)")
    parser.add_argument("--wasm", metavar="FILE", type=Path, default=HELLO, help="workload for the second step")
    parser.add_argument("--yes", action="store_true", help="ask nothing")
    parser.add_argument("--version", action="version", version=f"keep-manager-tester {__version__}")
    return parser


def _report(manager: ManagerClient) -> None:
    health = manager.health()
    print(f"keep-manager {health.version} at {manager.url}: {health.status}, systemd: {health.supervisor}")
    print(f"  ({printable(health.supervisor_reason)})")
    print(f"you are {printable(health.you)} ({', '.join(health.roles)})")
    for backend in manager.backends().backends:
        print(f"backend {backend.name}: {'available' if backend.available else 'not available'}")
        for check in backend.checks:
            words = check.info if check.passed else check.message
            print(f"  {'ok ' if check.passed else 'NO '} {printable(check.name)}: {printable(words)}")
    keeps = manager.list_keeps().keeps
    print(f"keeps found: {len(keeps)}")
    for keep in keeps:
        print(f"  {_line(keep)}")


def _count(options: argparse.Namespace) -> int:
    count: int | None = options.keeps
    if count is not None or options.yes:
        return KEEPS if count is None else max(0, count)
    while True:
        answer = input(f"How many keeps shall be made? [{KEEPS}] ").strip()
        if not answer:
            return KEEPS
        if answer.isascii() and answer.isdigit():
            return int(answer)
        print("A number, please.")


def _make(manager: ManagerClient, deployment: Deployment, count: int) -> list[Keep]:
    made = []
    for _ in range(count):
        keep = manager.create_keep(new_spec(principals=principals_of(deployment, [], Backend.PROCESS)))
        print(f"made: {_line(keep)}")
        made.append(keep)
    print(f"keeps now: {len(manager.list_keeps().keeps)}")
    return made


def _ready(manager: ManagerClient) -> Keep:
    for keep in manager.list_keeps().keeps:
        if keep.state is KeepState.READY:
            return keep
    raise KeepClientError("no keep is ready: make one with --keeps 1")


def _prepare(manager: ManagerClient, deployment: Deployment, keep: Keep) -> None:
    with open_keep(manager, deployment, keep.id) as client:
        status = client.verify()
        print(f"prepared: keep {keep.id} {client.peer.label}")
        print(
            f"  its app-loader {printable(status.version)} waits at {keep.endpoint}, workload: {status.workload.state}"
        )


def _line(keep: Keep) -> str:
    return f"{keep.id}  {printable(keep.name)}  {keep.state}  {keep.endpoint}  process {keep.pid or '-'}"


if __name__ == "__main__":
    sys.exit(main())
