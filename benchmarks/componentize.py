"""The HTTP workload that is measured: a component in Python, built by componentize-py, which `make bench` installs."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path

_SOURCE = """
from componentize_py_types import Ok
from wit_world import exports
from wit_world.imports.types import Fields, OutgoingBody, OutgoingResponse, ResponseOutparam


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request, response_out):
        headers = Fields()
        headers.append("content-type", b"text/plain")
        response = OutgoingResponse(headers)
        body = response.body()
        ResponseOutparam.set(response_out, Ok(response))
        with body.write() as stream:
            stream.blocking_write_and_flush(b"Hello, world!\\n")
        OutgoingBody.finish(body, None)
"""
GREETING = b"Hello, world!\n"
_WIT = Path(__file__).resolve().parents[1] / "examples" / "web" / "web.wit"


def hello_component(folder: Path) -> Path:
    """The built component, in `folder`. Raises `OSError` or `CalledProcessError`."""
    (folder / "greeter.py").write_text(_SOURCE)
    target = folder / "greeter.wasm"
    program = Path(sysconfig.get_path("scripts")) / "componentize-py"
    command: list[str | Path] = [program, "-d", _WIT, "-w", "proxy", "componentize", "greeter", "-o", target]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return target
