"""Endpoints and URLs: `HOST:PORT` and nothing that could smuggle in a path, a user or another scheme."""

from __future__ import annotations

import re
from urllib.parse import quote, urlsplit

from keep_client.errors import InvalidArgumentError

_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\])"
_ENDPOINT = re.compile(rf"{_HOST}:([0-9]{{1,5}})", re.ASCII)


def endpoint_url(endpoint: str) -> str:
    """The base URL of `ADDRESS:PORT`. Raises `InvalidArgumentError`."""
    match = _ENDPOINT.fullmatch(endpoint)
    if match is None or not 0 < int(match[1]) < 65536:
        raise InvalidArgumentError(f"{endpoint!a} is not an endpoint: expected ADDRESS:PORT")
    return f"https://{endpoint}"


def manager_url(url: str) -> str:
    """The base URL of a manager, checked. Raises `InvalidArgumentError`."""
    parts = urlsplit(url)
    if parts.scheme != "https" or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise InvalidArgumentError(f"{url!a} is not the URL of a manager: expected https://HOST:PORT")
    return endpoint_url(parts.netloc if re.search(r":[0-9]+$", parts.netloc) else f"{parts.netloc}:443")


def segment(text: str) -> str:
    """`text` as one segment of a URL path."""
    if text in ("", ".", ".."):
        raise InvalidArgumentError(f"{text!a} names nothing: expected an id or a name")
    try:
        return quote(text, safe="")
    except UnicodeEncodeError:
        raise InvalidArgumentError(f"{text!a} is not UTF-8") from None


def relative_path(path: str) -> str:
    """A path below a file area as a URL path; the empty path is the area itself.

    Dots are refused here because HTTP libraries resolve them before the keep could refuse them.
    """
    if not path:
        return ""
    return "/".join(segment(part) for part in path.split("/"))
