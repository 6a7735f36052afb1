"""What a command sees of a request: meta-variables of RFC 3875, section 4.1, and of WAGI, and its arguments."""

from __future__ import annotations

import re
from typing import Final

from app_loader.messages import Request, percent_decode
from app_loader.principals import Anybody
from app_loader.wasi_http.fields import permitted
from keep_protocol import __version__
from keep_protocol.errors import ErrorCode, RefusalError

_HTTPS_PORT: Final = "443"

_OWN_VARIABLES: Final = frozenset({"content-length", "content-type"})
_WITHHELD: Final = frozenset({"authorization", "proxy"})
"""RFC 3875, section 4.1.18: what authenticates is not in the environment. `Proxy` would become HTTP_PROXY, which
programs take for the proxy of their own requests (httpoxy)."""

_NAME: Final = re.compile(r"[a-z0-9-]+", re.ASCII)
"""Others cannot be told apart as variables: `x_a` and `x-a` would both be HTTP_X_A."""


def environment(request: Request, below: int, peer: str) -> dict[str, str]:
    """The meta-variables. The first `below` segments of the path are the keep's. Raises `RefusalError`."""
    own, rest = request.segments[:below], request.segments[below:]
    script = "".join(f"/{segment.decode('ascii')}" for segment in own)
    raw_path = f"/{b'/'.join(rest).decode('ascii', 'backslashreplace')}"
    path = _decoded(raw_path)
    query = request.raw_query.decode("ascii", "backslashreplace")
    host, port = _host_and_port(request.headers.get("host", ""))
    authority = host if port == _HTTPS_PORT else f"{host}:{port}"
    variables = {
        "AUTH_TYPE": "",
        "GATEWAY_INTERFACE": "CGI/1.1",
        "HTTPS": "on",
        "PATH_INFO": path,
        "PATH_TRANSLATED": path,
        "QUERY_STRING": query,
        "REMOTE_ADDR": peer,
        "REMOTE_HOST": peer,
        "REMOTE_USER": "" if isinstance(request.client, Anybody) else request.client.name,
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": script,
        "SERVER_NAME": host,
        "SERVER_PORT": port,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_SOFTWARE": f"wasmkeep/{__version__} WAGI/1",
        "X_FULL_URL": f"https://{authority}{script}{raw_path}{f'?{query}' if query else ''}",
        "X_MATCHED_ROUTE": f"{script}/...",
        "X_RAW_PATH_INFO": raw_path,
    }
    if request.body.size:
        variables["CONTENT_LENGTH"] = str(request.body.size)
    if request.body.size != 0 and (kind := request.headers.get("content-type")) is not None:
        variables["CONTENT_TYPE"] = kind
    for name in dict(permitted((name.decode("ascii"), value) for name, value in request.fields)):
        if _NAME.fullmatch(name) and name not in _OWN_VARIABLES | _WITHHELD:
            variables[f"HTTP_{name.upper().replace('-', '_')}"] = request.headers[name]
    if host:
        variables["HTTP_HOST"] = request.headers["host"]
    return variables


def arguments(request: Request, below: int, given: tuple[str, ...]) -> tuple[str, ...]:
    """The program's name and its arguments: those `given`, or else the parts of the query as they came, as in WAGI."""
    script = "".join(f"/{segment.decode('ascii')}" for segment in request.segments[:below]) or "/"
    query = request.raw_query.decode("ascii", "backslashreplace")
    return (script, *(given or filter(None, query.split("&"))))


def _decoded(raw_path: str) -> str:
    path = percent_decode(raw_path.encode("ascii"))
    if "\0" in path or any("\ud800" <= character <= "\udfff" for character in path):
        raise RefusalError(ErrorCode.BAD_REQUEST, "a path for a command is UTF-8 without NUL, once it is decoded")
    return path


def _host_and_port(authority: str) -> tuple[str, str]:
    host, colon, port = authority.rpartition(":")
    if colon and port.isascii() and port.isdigit():
        return host, port
    return authority, _HTTPS_PORT
