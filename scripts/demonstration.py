"""What demos are made of: commands that are shown, checked and explained, in a home of their own below the checkout."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parent.parent
HOME = Path(".demo")
PROGRAMS = CHECKOUT / ".venv" / "bin"
# WASMKEEP_HOME stands in for `--home .demo` on every command.
ENVIRONMENT = {**os.environ, "WASMKEEP_HOME": str(HOME), "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"}

SERVE = ("keep-manager", "serve", "--listen", "127.0.0.1:0", "--systemd", "auto")
STARTUP_SECONDS = 60
COMMAND_SECONDS = 300
"""Building a guest image fetches packages; a machine that is translated takes its time on a busy host."""


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
