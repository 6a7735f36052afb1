"""WASI preview 1 with sockets, which wasmtime has not: descriptors that are ours are answered here, others natively."""
