"""Step two of the demo: send a workload to the app-loader in a keep, and show what came out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from keep_client import (
    InvalidArgumentError,
    KeepClient,
    KeepClientError,
    ManagerClient,
    Source,
    follow_run,
)
from keep_protocol import __version__
from keep_protocol.keep_api import Run, RunRequest
from keep_protocol.states import KeepState
from testers.deployment import Deployment, add_connection_options, error_line, printable
from testers.keepctl.command import add_policy_option
from testers.keepctl.connecting import open_keep
from testers.keepctl.exit_status import FAILED, exit_status, explanation
from testers.keepctl.streams import STDERR, STDOUT, write_all


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the guest's exit status, as `keepctl run` does; 125 for errors that are not the guest's."""
    options = _parser().parse_args(arguments)
    try:
        deployment = Deployment.from_options(options)
        with deployment.connect() as manager:
            ref = options.keep or _choose(manager, yes=options.yes)
            wasm = Source.from_file(options.wasm or _ask_for_wasm(yes=options.yes))
            with open_keep(manager, deployment, ref, options.policy) as keep:
                _verify(keep)
                _load(keep, wasm)
                run = _run(keep, Path(wasm.name).name, tuple(options.arg))
    except (KeepClientError, OSError) as error:
        print(f"app-loader-tester: {error_line(error)}", file=sys.stderr)
        return FAILED
    except (KeyboardInterrupt, EOFError):
        print()
        return 130
    return _result(run)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="app-loader-tester",
        description="Verify a keep, send a workload to its app-loader over mutual TLS, and show what came out.",
        epilog="examples:\n  app-loader-tester --home .demo\n"
        "  app-loader-tester --home .demo --keep 3f1c0a5be2d94c71 --wasm examples/hello/hello.wasm",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_connection_options(parser)
    parser.add_argument("--keep", metavar="KEEP", help="id or name (default: ask, or the newest with --yes)")
    parser.add_argument("--wasm", metavar="FILE", type=Path, help="the workload (default: ask)")
    parser.add_argument("--arg", metavar="A", action="append", default=[], help="an argument for it")
    add_policy_option(parser)
    parser.add_argument("--yes", action="store_true", help="ask nothing")
    parser.add_argument("--version", action="version", version=f"app-loader-tester {__version__}")
    return parser


def _choose(manager: ManagerClient, *, yes: bool) -> str:
    ready = [keep for keep in manager.list_keeps().keeps if keep.state is KeepState.READY]
    if not ready:
        raise InvalidArgumentError("no keep is ready: run keep-manager-tester first")
    if yes:
        return ready[-1].id
    for number, keep in enumerate(ready, start=1):
        print(f"{number:3}  {keep.id}  {printable(keep.name)}  {keep.endpoint}")
    while True:
        answer = input(f"Which keep? [{len(ready)}] ").strip() or str(len(ready))
        if answer.isascii() and answer.isdigit() and 1 <= int(answer) <= len(ready):
            return ready[int(answer) - 1].id
        print(f"A number from 1 to {len(ready)}, please.")


def _ask_for_wasm(*, yes: bool) -> Path:
    if yes:
        raise InvalidArgumentError("no workload is named: give --wasm FILE")
    return Path(input("Which .wasm file? ").strip())


def _verify(keep: KeepClient) -> None:
    status = keep.verify()
    print(f"verified: keep {printable(status.id)} at {keep.endpoint} {keep.peer.label}")
    print(f"you are its {', '.join(status.you)}")


def _load(keep: KeepClient, wasm: Source) -> None:
    info = keep.load_workload(wasm)
    print(f"sent: {wasm.name}, {wasm.size} bytes, sha-256 {wasm.digest.hex()[:16]}…: {info.state}")


def _run(keep: KeepClient, program: str, arguments: tuple[str, ...]) -> Run:
    run = keep.start_run(RunRequest(args=arguments, program=program))
    print(f"run {printable(run.id)}, its output:", flush=True)
    return follow_run(
        keep,
        run.id,
        stdout=lambda data: write_all(STDOUT, data),
        stderr=lambda data: write_all(STDERR, data),
        stop_on_error=True,
    )


def _result(run: Run) -> int:
    if run.exit is None:
        print("app-loader-tester: the keep does not say how the run ended", file=sys.stderr)
        return FAILED
    if words := explanation(run.exit):
        print(f"app-loader-tester: {words}", file=sys.stderr)
    code = "" if run.exit.code is None else f" {run.exit.code}"
    print(f"the run has exited: {run.exit.reason}{code}; {run.stdout} bytes on stdout, {run.stderr} on stderr")
    return exit_status(run.exit)


if __name__ == "__main__":
    sys.exit(main())
