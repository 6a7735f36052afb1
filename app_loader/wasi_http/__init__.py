"""WASI 0.2 for components that answer HTTP requests: `wasi:http`, and the streams that it shares with other interfaces.

All of it is our own, as wasmtime's own streams cannot be made here and its outgoing requests know no policy.
"""
