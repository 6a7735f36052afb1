"""Finds the fuzz targets, runs them in this process or under atheris, and makes their inputs."""

from __future__ import annotations

import importlib
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

Target = Callable[[bytes], None]

_FOLDER = Path(__file__).resolve().parent
_PROJECT = _FOLDER.parents[1]


def target_names() -> list[str]:
    """Every module here that can be run as a fuzz target, by name."""
    return sorted(path.stem for path in _FOLDER.glob("*.py") if "\ndef target(" in path.read_text())


def load_target(name: str) -> Target:
    """The function to be called with any bytes."""
    with _uninstrumented():
        module = importlib.import_module(f"tests.fuzz.{name}")
    target: Target = module.target
    return target


@contextmanager
def _uninstrumented() -> Iterator[None]:
    # Here atheris would only slow down keep_attestation for all tests that come after; and it is not everywhere.
    stand_in: Any = ModuleType("atheris")
    stand_in.instrument_imports = lambda include: nullcontext()
    with patch.dict(sys.modules, {"atheris": stand_in}):
        modules = set(sys.modules)
        yield
        # patch.dict restores what was there before, and with it forgets what was imported meanwhile.
        imported = {name: sys.modules[name] for name in set(sys.modules) - modules}
    sys.modules.update(imported)


def mutations(name: str, seeds: Sequence[bytes], count: int) -> list[bytes]:
    """No bytes, the seeds and, up to `count` altogether, changed ones; the changes are the same in every run."""
    source = random.Random(name)
    inputs = [b"", *seeds]
    while len(inputs) < count:
        inputs.append(_changed(source, source.choice(seeds), source.choice(seeds)))
    return inputs


def _changed(source: random.Random, seed: bytes, other: bytes) -> bytes:
    place = source.randrange(len(seed) + 1)
    match source.randrange(6):
        case 0:
            return seed[:place]
        case 1:
            return seed + source.randbytes(source.randint(1, 8))
        case 2:
            return seed[:place] + other[source.randrange(len(other) + 1) :]
        case 3:
            return seed[:place] + seed[place + source.randint(1, 8) :]
        case 4:
            # Lengths and counts: the largest and the smallest are where readers go wrong.
            size = source.choice((1, 2, 4, 8))
            return seed[:place] + source.choice((b"\x00", b"\x7f", b"\xff")) * size + seed[place + size :]
        case _:
            changed = bytearray(seed)
            for _ in range(source.randint(1, 4) if changed else 0):
                changed[source.randrange(len(changed))] ^= 1 << source.randrange(8)
            return bytes(changed)


def atheris_missing() -> str | None:
    """Why targets cannot be run under atheris here, or None."""
    if find_spec("atheris") is None:
        return "atheris is not installed: it has wheels for x86-64 and Python 3.11 to 3.13 alone"
    return None


def fuzz(name: str, seeds: Sequence[bytes], folder: Path, *, runs: int, seconds: int) -> str | None:
    """Run a target under atheris for `runs` inputs or `seconds`, from these seeds. What it found, or None."""
    corpus, found = folder / "corpus", folder / "found"
    for place in (corpus, found):
        place.mkdir()
    for number, seed in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = {"runs": runs, "max_total_time": seconds, "timeout": 10, "rss_limit_mb": 2048, "seed": 1}
    command = [sys.executable, "-m", f"tests.fuzz.{name}", f"-artifact_prefix={found}/"]
    command += [f"-{option}={value}" for option, value in options.items()]
    ended = subprocess.run([*command, str(corpus)], cwd=_PROJECT, capture_output=True, text=True, timeout=120)
    inputs = [path.read_bytes().hex() for path in sorted(found.iterdir())]
    if ended.returncode == 0 and not inputs:
        return None
    return f"{name} ended with {ended.returncode}; inputs that do it: {inputs}\n{ended.stderr[-4000:]}"
