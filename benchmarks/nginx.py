"""An nginx with mutual TLS that stores what is PUT to it: the baseline for uploads."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from keep_client import Home

MISSING = "nginx is not installed (Debian: `apt-get install --no-install-recommends nginx-light`)"

_PATIENCE = 10.0

# As root, its worker must stay root to write into our folder.
_CONFIGURATION = """
daemon off;
{user}
worker_processes 1;
error_log {folder}/error.log;
pid {folder}/nginx.pid;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_max_body_size 0;
    client_body_temp_path {folder}/incoming;
    proxy_temp_path {folder}/unused;
    fastcgi_temp_path {folder}/unused;
    uwsgi_temp_path {folder}/unused;
    scgi_temp_path {folder}/unused;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {pki}/server.pem;
        ssl_certificate_key {pki}/server.key;
        ssl_client_certificate {pki}/client-ca.pem;
        ssl_crl {pki}/client-crl.pem;
        ssl_verify_client on;
        ssl_protocols TLSv1.3;
        location / {{ root {folder}/stored; dav_methods PUT; }}
    }}
}}
"""


def program() -> str | None:
    """Where nginx is, which is not in every user's path."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/sbin")


def version(nginx: str) -> str:
    """As `nginx -v` says, without its name."""
    return subprocess.run([nginx, "-v"], check=True, capture_output=True, text=True).stderr.strip().rpartition("/")[2]


@contextmanager
def serving(nginx: str, home: Home, folder: Path) -> Iterator[tuple[str, Path]]:
    """With the certificate and the client CA of a deployment's manager: its URL, and where it stores what it gets."""
    stored = folder / "stored"
    stored.mkdir(parents=True)
    port = _free_port()
    configuration = folder / "nginx.conf"
    configuration.write_text(
        _CONFIGURATION.format(
            user="user root;" if os.geteuid() == 0 else "", folder=folder, pki=home.operator.key.parent, port=port
        )
    )
    command = [nginx, "-p", str(folder), "-c", str(configuration), "-e", str(folder / "error.log")]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        _await(port, process)
        yield f"https://127.0.0.1:{port}", stored
    finally:
        process.terminate()
        process.wait(_PATIENCE)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _await(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except ConnectionError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("nginx does not listen") from error
            time.sleep(0.02)
