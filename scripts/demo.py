"""The main job once, with the commands that a user would type: `make demo`. Exits 1 where a step is not as expected."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from demo_machine import MACHINES, MEASURED, MEMORY, prepare_image, refuse_impostor, trust
from demonstration import (
    CHECKOUT,
    COMMAND_SECONDS,
    HOME,
    UnexpectedError,
    expect,
    explain,
    manager,
    only_keep,
    remains,
    report,
    run,
    tidy,
)

HELLO = "examples/hello/hello.wasm"
WORDCOUNT = "examples/wordcount/wordcount.wasm"
TEXT = "LICENSE"


def demonstrate(backend: str) -> None:
    """Every step, with keeps of this backend; raises `UnexpectedError` at the first that fails."""
    print("$ export PATH=$PWD/.venv/bin:$PATH WASMKEEP_HOME=.demo", flush=True)
    explain("The operator makes a home: configuration, a certificate authority for clients, the first operator's key.")
    run("keep-manager", "init")
    if backend in MACHINES:
        prepare_image(backend)

    explain("The manager starts. It takes the first way of supervising keeps that works here, and says which.")
    with manager() as first:
        facts = json.loads((HOME / "manager.json").read_bytes())

        if backend in MACHINES:
            explain(
                "A keep: a virtual machine with its own key, reached at its own address over mutual TLS, which ends"
            )
            print("# inside. It has no network device; what it boots is opened, checked and handed over.", flush=True)
            run("keepctl", "create", "--name", "demo", "--backend", backend, "--memory", MEMORY)
        else:
            explain("A keep: a sealed process with its own key, reached at its own address over mutual TLS.")
            run("keepctl", "create", "--name", "demo")
        before = only_keep()
        expect(before["state"] == "ready", f"the keep is {before['state']}, not ready")

        if backend == MEASURED:
            trust("demo")

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

        if backend == MEASURED:
            refuse_impostor()
        elif backend not in MACHINES:
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


def main() -> int:
    """Run the demo in the checkout; 0 when every step was as expected."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("backend", nargs="?", default="process", choices=("process", *MACHINES))
    backend = parser.parse_args().backend
    os.chdir(CHECKOUT)
    started = time.monotonic()
    try:
        tidy()
        try:
            demonstrate(backend)
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
