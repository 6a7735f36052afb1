#!/bin/sh
# Writes the lock files anew from pyproject.toml: the newest versions that it admits, with the hashes of the public
# package index, for every Python from 3.11 on and every platform.
set -eu
cd "$(dirname -- "$0")/.."

tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
python3 -m venv "$tools"
"$tools/bin/python" -m pip --quiet --disable-pip-version-check install uv

compile() {
    output=$1
    shift
    # --no-config: neither this machine's indexes nor its local wheels belong in a lock file.
    "$tools/bin/uv" pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' --upgrade "$@" \
        --output-file "$output"
}

compile requirements.lock --group dev pyproject.toml
compile requirements-build.lock --group build --constraint requirements.lock
compile requirements-bench.lock --group bench --constraint requirements.lock
