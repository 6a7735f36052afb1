"""`keepctl load|runs|output`: what a keep has to run, and what became of its runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from keep_client.keep_calls import OutputStream
from keep_protocol.keep_api import Run
from testers.deployment import Deployment, printable
from testers.keepctl.command import add_command, add_policy_option
from testers.keepctl.configurations import add_configuration_option, open_configuration
from testers.keepctl.connecting import open_keep
from testers.keepctl.console import run_document, say, show_json, show_table
from testers.keepctl.quantities import size_text
from testers.keepctl.streams import STDOUT, write_all
from testers.keepctl.uploads import add_upload_options, upload_of

if TYPE_CHECKING:
    from testers.keepctl.command import Subparsers


def register(subparsers: Subparsers) -> None:
    """Declare these commands."""
    load = add_command(
        subparsers,
        "load",
        "send a .wasm, or a program in Python, to a keep",
        _load,
        examples=(
            "keepctl load prices hello.wasm",
            "keepctl load prices server.wasm --config Keep.toml --compress zstd",
            "keepctl load prices report.py",
        ),
        details="What was loaded before is replaced, and /output is emptied.",
    )
    load.add_argument("keep", metavar="KEEP", help="id or name")
    add_policy_option(load)
    load.add_argument("file", metavar="FILE.wasm|FILE.py", type=Path)
    add_configuration_option(load)
    add_upload_options(load)
    runs = add_command(
        subparsers,
        "runs",
        "list a keep's runs",
        _runs,
        examples=("keepctl runs prices", "keepctl runs prices --json | jq '.[-1].exit'"),
    )
    runs.add_argument("keep", metavar="KEEP", help="id or name")
    add_policy_option(runs)
    output = add_command(
        subparsers,
        "output",
        "show what a run has written",
        _output,
        examples=("keepctl output prices 5d2f", "keepctl output prices 5d2f --stderr --follow"),
    )
    output.add_argument("keep", metavar="KEEP", help="id or name")
    add_policy_option(output)
    output.add_argument("run", metavar="RUN", help="id of the run")
    output.add_argument("--stderr", action="store_true", help="standard error instead of standard output")
    output.add_argument("--follow", "-f", action="store_true", help="go on until the run has exited")


def _load(options: argparse.Namespace) -> int:
    upload = upload_of(options)
    configured = None if options.config is None else open_configuration(options.config)
    deployment = Deployment.from_options(options)
    with deployment.connect() as manager, open_keep(manager, deployment, options.keep, options.policy) as keep:
        # What is loaded now must not be refused for what comes, nor what comes for what is configured now.
        http = None if configured is None else configured.configuration.http
        features = () if configured is None else configured.configuration.features
        first = http is None or not http.wagi or bool(features)
        if configured is not None and first:
            # So what the keep refuses of it costs no upload.
            keep.configure(configured.configuration)
        info = upload.load(keep)
        if configured is not None and not first:
            keep.configure(configured.configuration)
    if options.json:
        show_json(info)
    else:
        print(f"sha-256 {upload.digest}  {size_text(upload.source.size)}  {info.state}")
        for problem in info.problems:
            say(f"note: {printable(problem)}")
    return 0


def _runs(options: argparse.Namespace) -> int:
    deployment = Deployment.from_options(options)
    with deployment.connect() as manager, open_keep(manager, deployment, options.keep, options.policy) as keep:
        runs = keep.list_runs().runs
    if options.json:
        show_json([run_document(run) for run in runs])
        return 0
    show_table(
        ("ID", "STATE", "EXIT", "STARTED", "ENDED"),
        [(run.id, run.state, _exit(run), run.started_at or "-", run.ended_at or "-") for run in runs],
    )
    return 0


def _exit(run: Run) -> str:
    if run.exit is None:
        return "-"
    detail = run.exit.code if run.exit.code is not None else run.exit.trap
    return run.exit.reason if detail is None else f"{run.exit.reason} {detail}"


def _output(options: argparse.Namespace) -> int:
    stream: OutputStream = "stderr" if options.stderr else "stdout"
    deployment = Deployment.from_options(options)
    with deployment.connect() as manager, open_keep(manager, deployment, options.keep, options.policy) as keep:
        for chunk in keep.output(options.run, stream, follow=options.follow):
            write_all(STDOUT, chunk)
    return 0
