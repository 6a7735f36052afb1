"""The main job once, with the commands that a user would type: `make demo`. Exits 1 where a step is not as expected."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parent.parent
HOME = Path(".demo")
PROGRAMS = CHECKOUT / ".venv" / "bin"
# WASMKEEP_HOME stands in for `--home .demo` on every command.
ENVIRONMENT = {**os.environ, "WASMKEEP_HOME": str(HOME), "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"}

HELLO = "examples/hello/hello.wasm"
WORDCOUNT = "examples/wordcount/wordcount.wasm"
TEXT = "LICENSE"
SERVE = ("keep-manager", "serve", "--listen", "127.0.0.1:0", "--systemd", "auto")
STARTUP_SECONDS = 60
COMMAND_SECONDS = 120


class UnexpectedError(Exception):
    """A step of the demo did not do what it promises."""


def explain(text: str) -> None:
    """A line for the reader, before the command that it is about."""
    print(f"\n# {text}", flush=True)


def expect(holds: bool, otherwise: str) -> None:
    """Go on, or raise `UnexpectedError`."""
    if not holds:
        raise UnexpectedError(otherwise)


def run(*command: str, status: int = 0, show: bool = True) -> str:
    """Type a command, show what it prints, check its exit status; returns its standard output."""
    print(f"$ {shlex.join(command)}", flush=True)
    done = subprocess.run(
        command,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=None if show else subprocess.PIPE,
        timeout=COMMAND_SECONDS,
        encoding="utf-8",
    )
    if show:
        print(done.stdout, end="", flush=True)
    expect(done.returncode == status, f"`{shlex.join(command)}` ended with status {done.returncode}, not {status}")
    return done.stdout


def only_keep() -> dict[str, Any]:
    """The one keep of the demo, as `keepctl ls --json` reports it to scripts."""
    keeps = json.loads(run("keepctl", "ls", "--json", show=False))
    expect(len(keeps) == 1, f"there are {len(keeps)} keeps, not one")
    keep: dict[str, Any] = keeps[0]
    print(f"  … id {keep['id']}, state {keep['state']}, endpoint {keep['endpoint']}, process {keep['pid']}", flush=True)
    return keep


@contextlib.contextmanager
def manager(keeps: int = 0) -> Iterator[subprocess.Popen[str]]:
    """A manager in the background that says it is listening, and that it found so many keeps.

    It is not ended with the block: see `end`.
    """
    print(f"$ {shlex.join(SERVE)} &", flush=True)
    log_file = CHECKOUT / HOME / "manager.log"
    logged = log_file.stat().st_size if log_file.exists() else 0
    with log_file.open("a") as log:
        process = subprocess.Popen(
            SERVE, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, encoding="utf-8"
        )
    assert process.stdout is not None
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            expect(bool(selector.select(STARTUP_SECONDS)), "the manager did not come up in time")
        for start in ("listening on ", *["found keep "] * keeps):
            line = process.stdout.readline()
            expect(line.startswith(start), f"the manager said {line!r}; see {HOME}/manager.log")
            print(line, end="", flush=True)
        for line in log_file.read_text()[logged:].splitlines():
            if " keep_manager.server: supervisor: " in line:
                print(
                    textwrap.fill(line.partition(" keep_manager.server: ")[2], 118, subsequent_indent="  "), flush=True
                )
        yield process
    finally:
        process.stdout.close()


def remains(words: frozenset[bytes]) -> list[str]:
    """Processes, other than this one, whose command line or environment has one of `words`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            text = (folder / "cmdline").read_bytes() + b"\0" + (folder / "environ").read_bytes()
        except OSError:
            continue  # it has ended, or belongs to somebody else
        if int(folder.name) != os.getpid() and any(word in text for word in words):
            found.append(f"{folder.name} ({text.split(bytes(1), 1)[0].decode(errors='replace')})")
    return found


def demonstrate() -> None:
    """Every step; raises `UnexpectedError` at the first that fails."""
    print("$ export PATH=$PWD/.venv/bin:$PATH WASMKEEP_HOME=.demo", flush=True)
    explain("The operator makes a home: configuration, a certificate authority for clients, the first operator's key.")
    run("keep-manager", "init")

    explain("The manager starts. It takes the first way of supervising keeps that works here, and says which.")
    with manager() as first:
        facts = json.loads((HOME / "manager.json").read_bytes())

        explain("A keep: a sealed process with its own key, reached at its own address over mutual TLS.")
        run("keepctl", "create", "--name", "demo")
        before = only_keep()
        expect(before["state"] == "ready", f"the keep is {before['state']}, not ready")

        explain("What its sandbox is known to hold; every connection below is refused unless the keep shows its key.")
        run("keepctl", "show", "demo")

        explain("A first workload is sent to the keep and run; its output comes back, and its exit code.")
        greeting = run("keepctl", "run", "--keep", "demo", HELLO)
        expect(greeting == "Hello, world!\n", f"hello printed {greeting!r}")
        print("exit code 0", flush=True)

        explain("A second one, with a file to read at /input and a file that it leaves at /output.")
        put, get = f"{TEXT}:/input/{TEXT}", f"/output/counts.txt:{HOME}/counts.txt"
        wordcount = ("keepctl", "run", "--keep", "demo", WORDCOUNT, "--put", put, "--get", get)
        counted = run(*wordcount, "--", f"/input/{TEXT}")
        text = Path(TEXT).read_bytes()
        numbers = [str(text.count(b"\n")), str(len(text.split())), str(len(text))]
        expect(counted.split()[:3] == numbers, f"wordcount printed {counted!r}, expected {' '.join(numbers)}")
        fetched = run("cat", f"{HOME}/counts.txt")
        expect(fetched == counted, "the file that came back is not what wordcount printed")

        explain("A run that fails says so: the exit code is the workload's own.")
        run("keepctl", "run", "--keep", "demo", WORDCOUNT, "--", "/input/missing", status=1)
        print("exit code 1", flush=True)

        explain("The manager is killed, with no chance to tidy up.")
        expect(facts["pid"] == first.pid, f"manager.json names process {facts['pid']}, the manager is {first.pid}")
        print(f"$ kill -KILL {first.pid}", flush=True)
        first.send_signal(signal.SIGKILL)
        first.wait(COMMAND_SECONDS)

    explain("Another manager finds the keep again: the same process at the same address, which noticed nothing.")
    with manager(keeps=1) as second:
        after = only_keep()
        for fact in ("id", "pid", "endpoint", "certificate", "state"):
            expect(after[fact] == before[fact], f"`{fact}` was {before[fact]} and is {after[fact]}")
        print(f"  … process {after['pid']} is the one from before", flush=True)

        explain("What ran before is still known, and its output can be fetched again.")
        run("keepctl", "runs", "demo")
        runs = json.loads(run("keepctl", "runs", "demo", "--json", show=False))
        expect([each["exit"]["code"] for each in runs] == [0, 0, 1], "the keep remembers other exit codes than 0, 0, 1")
        again = run("keepctl", "output", "demo", runs[1]["id"])
        expect(again == counted, f"the output is now {again!r}")

        prove()

        explain("The keeps are removed with all they held; then the manager and all that it started is ended.")
        run("keepctl", "rm", "demo")
        expect(json.loads(run("keepctl", "ls", "--json", show=False)) == [], "the keep is still listed")
        run("keep-manager", "down")
        second.wait(COMMAND_SECONDS)

    left = remains(frozenset({facts["deployment"].encode(), facts["runtime"].encode()}))
    expect(not left, f"still running: {', '.join(left)}")
    print("\nNothing is left running.", flush=True)


def prove() -> None:
    """A keep that proves what it is, and one that is not it. Raises `UnexpectedError`."""
    explain("A keep that proves itself, here with evidence that is only simulated: nothing is believed of its host.")
    run("keepctl", "create", "--name", "proven", "--evidence", "simulated")

    explain("We look at what it shows, and pin it: from now on every connection demands just this, fresh and its own.")
    run("keepctl", "trust", "proven", "--yes")
    greeting = run("keepctl", "run", "--keep", "proven", HELLO)
    expect(greeting == "Hello, world!\n", f"hello printed {greeting!r}")

    explain("A policy for production accepts no simulation: refused in the handshake, before a byte is sent.")
    run("keepctl", "policy", "init", "snp", "tdx", "nitro", "-o", f"{HOME}/production.toml")
    run("keepctl", "runs", "proven", "--policy", f"{HOME}/production.toml", status=1)

    explain("An impostor: the same code on the same host under another spec, which the host passes off as our keep.")
    run("keepctl", "create", "--name", "impostor", "--evidence", "simulated")
    keeps = {keep["name"]: keep["id"] for keep in json.loads(run("keepctl", "ls", "--json", show=False))}
    pinned = HOME / "trust" / f"{keeps['proven']}.toml"
    forged = pinned.read_text().replace(keeps["proven"], keeps["impostor"]).replace('"proven"', '"impostor"')
    pinned.with_stem(keeps["impostor"]).write_text(forged)
    run("keepctl", "runs", "impostor", status=1)
    run("keepctl", "rm", "impostor", "proven")


def tidy() -> None:
    """End what an earlier demo left that was broken off, and forget its home. Raises `UnexpectedError`."""
    if (HOME / "config").exists():
        down = subprocess.run(("keep-manager", "down"), env=ENVIRONMENT, stdout=subprocess.DEVNULL)
        expect(down.returncode == 0, f"`keep-manager down --home {HOME}` failed; {HOME} stays until it succeeds")
    if HOME.exists():
        shutil.rmtree(HOME)


def report(error: Exception) -> None:
    """Say what went wrong, with the manager's last words."""
    print(f"\ndemo: FAILED: {error}", file=sys.stderr)
    log = HOME / "manager.log"
    if log.exists():
        print(f"demo: the end of {log}:", *log.read_text().splitlines()[-20:], sep="\n  ", file=sys.stderr)


def main() -> int:
    """Run the demo in the checkout; 0 when every step was as expected."""
    os.chdir(CHECKOUT)
    started = time.monotonic()
    try:
        tidy()
        try:
            demonstrate()
        except (UnexpectedError, subprocess.TimeoutExpired, OSError, LookupError, ValueError) as error:
            report(error)
            return 1
        finally:
            tidy()
    except UnexpectedError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    print(f"The demo took {time.monotonic() - started:.1f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
