"""The file that `keepctl init` writes: every key, commented out, with what it does and what is usual."""

from __future__ import annotations

from typing import Final

TEMPLATE: Final = """\
# How a workload is run in a keep: keepctl run --config Keep.toml FILE.wasm
# Everything is optional. What follows "#:" can be switched on by taking these two characters away.

# Arguments after the program's name, and its environment.
#: args = ["--verbose"]
#: env = { LANG = "C" }

# Standard input: "none" (usual), or "stream" for what the caller sends. Outputs: "keep" (usual), or "null".
#: stdin = "stream"
#: stdout = "keep"
#: stderr = "null"

# Let instances that have answered a call or an HTTP request answer further ones, with their state (usual: false).
#: reuse = true

# Start runs again that a restart of the keep interrupted (usual: false).
#: restart = true

# What it may have of WebAssembly beyond what every workload has (usual: nothing); keepctl inspect says what it needs.
#: features = ["exceptions", "gc", "memory64", "relaxed-simd", "wide-arithmetic"]

# What one run may use; sizes in bytes or with K, M, G, times in seconds or with s, m, h, d.
#: [limits]
#: memory = "64M"
#: run_time = "30s"
#: output = "1M"

# Folders of the keep that the guest sees; usual are /input, /output and /data. Areas: input, output, data.
#: [[directories]]
#: guest = "/data"
#: area = "data"
#: writable = true

# Secrets that the keep holds (keepctl secret put), as a variable or as a file.
#: [[secrets]]
#: name = "db-password"
#: env = "DB_PASSWORD"

# The guest's descriptors, from 0 on; usual are the three streams alone. Modules for WASI preview 1 only.
# kind: null, stdin, stdout, stderr, listen, connect. prot: tcp, or tls, which the keep does for the guest.
#: [[files]]
#: kind = "stdin"
#: [[files]]
#: kind = "stdout"
#: [[files]]
#: kind = "stderr"
#: [[files]]
#: kind = "listen"
#: name = "web"
#: prot = "tls"
#: port = 8443
#: [[files]]
#: kind = "connect"
#: host = "db.example.org"
#: prot = "tcp"
#: port = 5432

# The workload's own HTTP.
#: [http]
#: enabled = true
#: wagi = false
#: port = 8080
#: public = false

# Whom it may connect to besides: HOST[:PORT,...][+private][+METHOD...]
#: [egress]
#: allow = ["https://api.example.com", "**.example.net:443"]
#: deny = ["private.example.net:443"]
"""
