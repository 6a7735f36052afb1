"""`keepctl run`: a .wasm as if it were a local program, in a keep made for it or in one that exists."""

from __future__ import annotations

import argparse
import io
import math
from base64 import b64encode
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from keep_client import (
    InvalidArgumentError,
    KeepClient,
    KeepClientError,
    ManagerClient,
    ProblemError,
    ProtocolError,
    connect_keep,
    follow_run,
    new_spec,
)
from keep_client.configuration_file import ConfigurationFile
from keep_client.following import Sink
from keep_protocol.errors import ErrorCode
from keep_protocol.keep_api import Mount, Run, RunRequest
from keep_protocol.network_policy import NO_NETWORK
from keep_protocol.spec import DEFAULT_LIMITS, Limits, MiB, canonical, spec_digest
from keep_protocol.states import WorkloadState
from testers.deployment import Deployment, error_line
from testers.keepctl import guest_paths
from testers.keepctl.command import add_command
from testers.keepctl.configurations import (
    add_configuration_option,
    add_feature_option,
    limits_for,
    network_for,
    open_configuration,
    restarts_runs,
    with_features,
)
from testers.keepctl.connecting import open_keep
from testers.keepctl.console import run_document, say, show_json
from testers.keepctl.exit_status import FAILED, NOT_RUNNABLE, exit_status, explanation
from testers.keepctl.fetching import fetch
from testers.keepctl.files import sent_to
from testers.keepctl.guest_paths import Folder, Location, Transfer, folder_mounts, locate, run_mounts
from testers.keepctl.interruption import Interrupted, interruptible
from testers.keepctl.option_words import fields_as_options
from testers.keepctl.quantities import duration, size
from testers.keepctl.secrets import secret_use
from testers.keepctl.sending import Entry, entries_of, send
from testers.keepctl.specification import (
    SPEC_OPTIONS,
    add_evidence_options,
    add_network_options,
    evidence_of,
    network_of,
    principals_of,
)
from testers.keepctl.streams import STDERR, STDIN, STDOUT, file_chunks, read_chunks, write_all
from testers.keepctl.temporary_keep import temporary_keep
from testers.keepctl.trust_store import policy_from_file
from testers.keepctl.uploads import Upload, add_upload_options, upload_of

if TYPE_CHECKING:
    from testers.keepctl.command import Subparsers

BESIDE_THE_GUEST = 256 * MiB
"""What a keep gets beyond the memory of a guest that was allowed more than a keep usually has."""

CLOSED_PIPE = 141
"""As if SIGPIPE had ended us: 128 + 13."""

_DETAILS = """\
Without --keep a keep is made, used and removed again, also on Ctrl-C. With --keep the file is loaded unless the keep
has loaded just that file already. Standard output and standard error of the guest are passed through as they come.

FILE.py is run by CPython as a component, which is made here the first time (some 15 s) and compiled by each keep once
(some 10 s): use --keep for more than one run. docs/python.md says what there is of Python.

Guests see /input (read-only), /output and /data. --dir sends a local folder and shows it at GUEST, which may be / or a
relative name. With --dir or --no-folders, /input, /output and /data are there only if --put or --get name them. What
the guest writes into a --dir folder stays in the keep: fetch it with --get GUEST/file:LOCAL. In a keep that existed
before, the folders of an earlier run with --dir are replaced. Links in LOCAL are followed only where they stay inside
of it.

/sealed is there if --put or --get name a path in it: its files are plaintext for the guest, and for everybody else
envelopes that only this keep's key opens.

Exit status: the guest's own; 134 trap, 124 timeout, 137 memory, 143 stopped, 1 when the file is nothing that can be
run, 125 any other error that is not the guest's (also: lost, too much output), 128+N when signal N ended keepctl. Codes
above 255 keep their low 8 bits, but never become 0.

With --json the output is not passed through: one document with the run and, in base64, what it wrote."""


@dataclass(frozen=True, slots=True)
class Job:
    """All that the command line asks for, checked before a keep is made."""

    upload: Upload
    configured: ConfigurationFile | None
    request: RunRequest
    folders: tuple[tuple[Location, list[Entry]], ...]
    puts: tuple[tuple[Location, list[Entry]], ...]
    gets: tuple[tuple[Location, Path], ...]
    stdin: str | None

    def input(self) -> Iterable[bytes] | None:
        """Standard input for the guest."""
        if self.stdin is None:
            return None
        return read_chunks(STDIN) if self.stdin == "-" else file_chunks(Path(self.stdin))


def register(subparsers: Subparsers) -> None:
    """Declare this command."""
    run = add_command(
        subparsers,
        "run",
        "run a .wasm, or a program in Python, in a keep and exit as it does",
        _run,
        examples=(
            "keepctl run hello.wasm",
            "keepctl run report.py --put sales.csv:/input/sales.csv",
            "keepctl run wordcount.wasm --put text.txt:/input/text.txt -- /input/text.txt",
            "cat data | keepctl run echo.wasm --stdin - --timeout 30s --memory 64M",
            "keepctl run build.wasm --dir src:/src:ro --dir out:/out --get /out/result:result",
            "keepctl run --keep prices hello.wasm --env LANG=C --arg=-v",
            "keepctl run --config Keep.toml server.wasm",
            "keepctl run --evidence tpm --policy production.toml hello.wasm",
        ),
        details=_DETAILS,
    )
    run.add_argument("file", metavar="FILE.wasm|FILE.py", type=Path)
    run.add_argument("--keep", metavar="KEEP", help="id or name of a keep (default: make one for this run)")
    add_configuration_option(run)
    add_feature_option(run)
    run.add_argument("--arg", metavar="A", action="append", default=[], help="an argument; before those after --")
    run.add_argument("--env", metavar="K=V", type=_variable, action="append", default=[], help="a variable")
    run.add_argument(
        "--secret",
        metavar="NAME[=ENV|:/PATH]",
        type=secret_use,
        action="append",
        default=[],
        help="a secret that the keep holds, as a variable or a file (keepctl secret put)",
    )
    run.add_argument("--stdin", metavar="FILE|-", help="standard input, - for our own (default: none)")
    for name, metavar, kind, text in (
        ("--put", "LOCAL:GUEST", guest_paths.put, "send a file or folder before the run"),
        ("--get", "GUEST:LOCAL", guest_paths.get, "fetch a file or folder after the run"),
        ("--dir", "LOCAL:GUEST[:ro]", guest_paths.folder, "send a folder and show it to the guest at GUEST"),
    ):
        run.add_argument(name, metavar=metavar, type=kind, action="append", default=[], help=text)
    run.add_argument(
        "--no-folders", action="store_true", help="show the guest no folders but those that --dir, --put and --get name"
    )
    run.add_argument("--memory", metavar="SIZE", type=size, help="memory of the guest, such as 64M")
    run.add_argument("--timeout", metavar="TIME", type=duration, help="time for the run, such as 30s")
    add_upload_options(run)
    add_evidence_options(run)
    add_network_options(run)
    # The guest's own arguments are split off before parsing: argparse would take them for ours.
    run.usage = "%(prog)s [options] FILE.wasm|FILE.py [-- ARGUMENT...]"
    run.set_defaults(failure=FAILED)


def _variable(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=VALUE")
    return name, value


def _run(options: argparse.Namespace) -> int:
    try:
        with interruptible():
            return _run_interruptibly(options)
    except Interrupted as interruption:
        return interruption.status
    except BrokenPipeError:
        return CLOSED_PIPE
    except ProblemError as problem:
        if problem.code not in (ErrorCode.WORKLOAD_INVALID, ErrorCode.WORKLOAD_NOT_RUNNABLE):
            raise
        say(error_line(problem))
        return NOT_RUNNABLE


def _run_interruptibly(options: argparse.Namespace) -> int:
    job = _job(options)
    deployment = Deployment.from_options(options)
    with deployment.connect() as manager, _keep(options, deployment, manager, job.configured) as keep:
        return _work(keep, job, json=options.json)


def _job(options: argparse.Namespace) -> Job:
    upload = upload_of(options)
    configured = None if options.config is None else open_configuration(options.config)
    if options.feature and options.keep is not None and options.config is None:
        raise InvalidArgumentError("--feature: a keep that exists has a configuration: give all of it with --config")
    configured = with_features(configured, options.feature)
    if options.stdin not in (None, "-") and not Path(options.stdin).exists():
        raise InvalidArgumentError(f"{options.stdin} does not exist: --stdin takes a file, or -")
    if options.secret and options.keep is None:
        raise InvalidArgumentError("a keep that is made for one run holds no secrets: name one with --keep")
    folders: list[Folder] = options.dir
    puts: list[Transfer] = options.put
    gets: list[Transfer] = options.get
    mounts = folder_mounts(folders)
    stdin = _stdin(options.stdin, configured)
    for folder in folders:
        if not folder.local.is_dir():
            raise InvalidArgumentError(f"{folder.local} is no folder: --dir takes one, --put takes files")
    return Job(
        upload=upload,
        configured=configured,
        request=RunRequest(
            args=(*options.arg, *options.guest_args) or None,
            program=options.file.name,
            env=dict(options.env),
            stdin=None if stdin is None else "stream",
            mounts=run_mounts(mounts, [transfer.guest for transfer in (*puts, *gets)], only_named=options.no_folders),
            memory=options.memory,
            timeout=options.timeout,
            secrets=tuple(options.secret) or None,
        ),
        folders=tuple(
            (Location(mount.area, mount.path), entries_of(folder.local))
            for folder, mount in zip(folders, mounts, strict=True)
        ),
        puts=tuple(_put(transfer, mounts) for transfer in puts),
        gets=tuple((locate(transfer.guest, mounts), Path(transfer.local)) for transfer in gets),
        stdin=stdin,
    )


def _stdin(given: str | None, configured: ConfigurationFile | None) -> str | None:
    """A workload that is configured to get a stream gets ours."""
    if given is not None or configured is None:
        return given
    return "-" if configured.inherits_stdin or configured.configuration.stdin == "stream" else None


def _put(transfer: Transfer, mounts: tuple[Mount, ...]) -> tuple[Location, list[Entry]]:
    place = sent_to(transfer.local, transfer.guest, locate(transfer.guest, mounts))
    return place, entries_of(Path(transfer.local))


@contextmanager
def _keep(
    options: argparse.Namespace, deployment: Deployment, manager: ManagerClient, configured: ConfigurationFile | None
) -> Iterator[KeepClient]:
    if options.keep is not None:
        if network_of(options) != NO_NETWORK:
            raise InvalidArgumentError("a keep that exists has the network of its spec: name none with --keep")
        if options.evidence is not None:
            raise InvalidArgumentError("--evidence is for the keep that a run makes: a keep that exists has its own")
        with open_keep(manager, deployment, options.keep, options.policy) as client:
            yield client
        return
    evidence = evidence_of(options)
    if evidence is not None and options.policy is None:
        raise InvalidArgumentError("a keep that is made for one run needs to be told what to prove: give --policy FILE")
    policy = None if options.policy is None else policy_from_file(options.policy)
    with fields_as_options(SPEC_OPTIONS):
        spec = new_spec(
            principals=principals_of(deployment, [], options.backend),
            limits=limits_for(_limits(options.memory, options.timeout), configured),
            backend=options.backend,
            evidence=evidence,
            network=network_of(options, network_for(configured)),
            restart_runs=restarts_runs(configured),
        )
    digest = None if policy is None else spec_digest(canonical(spec))
    with (
        temporary_keep(manager, spec) as keep,
        connect_keep(manager, keep, policy=policy, spec_digest=digest) as client,
    ):
        yield client


def _limits(memory: int | None, timeout: float | None) -> Limits:
    """Enough for what the run may use, if that is more than usual."""
    return msgspec.structs.replace(
        DEFAULT_LIMITS,
        memory=DEFAULT_LIMITS.memory if memory is None else max(DEFAULT_LIMITS.memory, memory + BESIDE_THE_GUEST),
        run_time=DEFAULT_LIMITS.run_time if timeout is None else max(DEFAULT_LIMITS.run_time, math.ceil(timeout)),
    )


def _work(keep: KeepClient, job: Job, *, json: bool) -> int:
    if job.configured is not None:
        # First, so that what the keep refuses of it costs no upload.
        keep.configure(job.configured.configuration)
    loaded = keep.workload()
    if loaded.state is not WorkloadState.LOADED or loaded.digest != job.upload.digest:
        job.upload.load(keep)
    for place, entries in job.folders:
        _clear(keep, place)
        send(keep, entries, place)
    for place, entries in job.puts:
        send(keep, entries, place)
    stdout, stderr = io.BytesIO(), io.BytesIO()
    sinks: tuple[Sink, Sink] = (stdout.write, stderr.write) if json else (_to(STDOUT), _to(STDERR))
    run = _follow(keep, job, *sinks)
    if run.exit is None:
        raise ProtocolError("the keep says that the run has exited, and not how")
    if json:
        written = {"stdout": b64encode(stdout.getvalue()).decode(), "stderr": b64encode(stderr.getvalue()).decode()}
        show_json({"run": run_document(run), **written})
    if words := explanation(run.exit):
        say(words)
    status = exit_status(run.exit)
    return status if _fetch_all(keep, job) else status or FAILED


def _clear(keep: KeepClient, place: Location) -> None:
    """Nothing of an earlier run may be mixed into a folder that is sent now."""
    try:
        keep.remove_file(place.area, place.path)
    except ProblemError as problem:
        if problem.code != ErrorCode.FILE_NOT_FOUND:
            raise


def _follow(keep: KeepClient, job: Job, stdout: Sink, stderr: Sink) -> Run:
    run = keep.start_run(job.request)
    return follow_run(keep, run.id, stdout=stdout, stderr=stderr, stdin=job.input(), stop_on_error=True)


def _to(descriptor: int) -> Sink:
    return lambda chunk: write_all(descriptor, chunk)


def _fetch_all(keep: KeepClient, job: Job) -> bool:
    """Fetch what `--get` names; False, and a message for each, when something is missing."""
    complete = True
    for place, local in job.gets:
        try:
            fetch(keep, place, local)
        except (KeepClientError, OSError) as error:
            say(f"--get {place}: {error_line(error)}")
            complete = False
    return complete
