#!/usr/bin/env python3
"""Builds the test guests: C with clang for wasm32-wasi, WAT with wasmtime, components in http/ of C with jco.

    python tests/guests/build.py [NAME...]      all of them, or those named (cpu/fib, escape, ...)

Needs Debian's clang, lld, wasi-libc and libclang-rt-*-dev-wasm32 (or WASI_CC=/path/to/clang of the
wasi-sdk), and the Python package wasmtime; for components also node and, in examples/,
`npm install @bytecodealliance/jco@1.35`. The built files are checked in: tests do not build.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parents[1] / "examples"
RUNTIMES = (
    "lib/clang/*/lib/wasi/libclang_rt.builtins-wasm32.a",
    "lib/clang/*/lib/wasm32*/libclang_rt.builtins.a",
)


def find_clang() -> str:
    """The newest installed LLVM that has the wasm32 runtime library."""
    if chosen := os.environ.get("WASI_CC"):
        return chosen
    found = [
        (int(root.name.removeprefix("llvm-")), root / "bin" / "clang")
        for root in Path("/usr/lib").glob("llvm-[0-9]*")
        if any(next(root.glob(pattern), None) for pattern in RUNTIMES)
    ]
    return str(max(found)[1]) if found else "clang"


def build_c(source: Path, target: Path) -> None:
    level = "-O2" if source.parent.name == "cpu" else "-Oz"
    # Of its backtrace, tests want files and lines.
    debug = ["-g", "-O0", "-fdebug-compilation-dir=."] if source.stem == "lines" else [level, "-Wl,--strip-all"]
    flags = ["--target=wasm32-wasi", *debug, "-Wall", "-Wextra"]
    subprocess.run([find_clang(), *flags, "-o", str(target), str(source.relative_to(HERE))], check=True, cwd=HERE)
    target.chmod(0o644)


def build_wat(source: Path, target: Path) -> None:
    import wasmtime

    target.write_bytes(wasmtime.wat2wasm(source.read_text()))


def build_component(source: Path, target: Path) -> None:
    """Of C that has its imports and exports as the canonical ABI flattens them; examples/web has their WIT."""
    flags = ["--target=wasm32-wasi", "-Oz", "-Wall", "-Wextra", "-nostdlib", "-Wl,--no-entry", "-Wl,--strip-all"]
    core = target.with_suffix(".tmp")
    subprocess.run([find_clang(), *flags, "-o", str(core), str(source)], check=True)
    try:
        script, wit = EXAMPLES / "componentize.mjs", EXAMPLES / "web" / "web.wit"
        subprocess.run(["node", str(script), str(core), str(wit), str(target)], check=True)
    finally:
        core.unlink()


def _builder(source: Path) -> Callable[[Path, Path], None]:
    if source.suffix == ".wat":
        return build_wat
    return build_component if source.parent.name == "http" else build_c


def main(names: list[str]) -> int:
    sources = {
        str(path.relative_to(HERE).with_suffix("")): path
        for pattern in ("*.c", "cpu/*.c", "http/*.c", "*.wat")
        for path in sorted(HERE.glob(pattern))
    }
    for name in names or sources:
        if name not in sources:
            print(f"no such guest: {name}", file=sys.stderr)
            return 2
        source = sources[name]
        target = source.with_suffix(".wasm")
        _builder(source)(source, target)
        print(f"{target.stat().st_size:7} {name}.wasm")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
