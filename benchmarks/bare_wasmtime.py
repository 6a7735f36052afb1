"""The baseline for guests that compute: nothing but wasmtime-py. Prints the seconds that `_start` took.

`python bare_wasmtime.py FILE.wasm [ARGUMENT...]`; the guest's own output is thrown away.
"""

from __future__ import annotations

import os
import sys
import time

from wasmtime import Engine, Func, Linker, Module, Store, WasiConfig


def main() -> int:
    """Compile, instantiate, then time the call alone."""
    engine = Engine()
    linker = Linker(engine)
    linker.define_wasi()
    store = Store(engine)
    wasi = WasiConfig()
    wasi.argv = ["main.wasm", *sys.argv[2:]]
    wasi.stdout_file = os.devnull
    store.set_wasi(wasi)
    instance = linker.instantiate(store, Module.from_file(engine, sys.argv[1]))
    start = instance.exports(store)["_start"]
    assert isinstance(start, Func)
    started = time.perf_counter()
    start(store)
    print(time.perf_counter() - started)
    return 0


if __name__ == "__main__":
    sys.exit(main())
