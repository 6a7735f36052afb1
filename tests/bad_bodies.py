"""Request bodies that no route may accept: one table, tried on the manager and on a keep."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

JSON = "application/json"


@dataclass(frozen=True)
class BadBody:
    """A body and the refusal that it earns."""

    name: str
    body: bytes
    status: int
    code: str
    field: str | None = None
    media_type: str | None = JSON


MALFORMED: tuple[BadBody, ...] = (
    BadBody("nothing", b"", 400, "bad-request"),
    BadBody("text", b"hello", 400, "bad-request"),
    BadBody("truncated", b"{", 400, "bad-request"),
    BadBody("single quotes", b"{'a': 1}", 400, "bad-request"),
    BadBody("not UTF-8", b'{"\xff\xfe": 1}', 400, "bad-request"),
    BadBody("byte order mark", b"\xef\xbb\xbf{}", 400, "bad-request"),
    BadBody("NUL bytes", b"\x00" * 64, 400, "bad-request"),
    BadBody("an array", b"[]", 422, "field-invalid"),
    BadBody("nested without end", b"[" * 100_000, 422, "field-invalid"),
    BadBody("null", b"null", 422, "field-invalid"),
    BadBody("a number", b"1e308", 422, "field-invalid"),
    BadBody("a string", b'"spec"', 422, "field-invalid"),
    BadBody("no stated type", b"{}", 415, "media-type-unsupported", media_type=None),
    BadBody("a form", b"a=b", 415, "media-type-unsupported", media_type="application/x-www-form-urlencoded"),
    BadBody("XML", b"<a/>", 415, "media-type-unsupported", media_type="application/xml"),
)
"""Wrong for every route that takes JSON."""


def bad_keeps(valid: dict[str, Any]) -> tuple[BadBody, ...]:
    """Bodies of `POST /v1/keeps`, each one mistake away from a valid one."""

    def changed(name: str, change: Callable[[dict[str, Any]], object], code: str, field: str | None) -> BadBody:
        body = copy.deepcopy(valid)
        change(body)
        return BadBody(name, json.dumps(body).encode(), 422, code, field)

    def limit(name: str, value: object, code: str = "spec-invalid") -> BadBody:
        return changed(
            f"limit {name} = {value}",
            lambda body: body["spec"]["limits"].update({name: value}),
            code,
            f"spec.limits.{name}",
        )

    def named(name: str) -> BadBody:
        return changed(f"name {name[:20]!r}", lambda body: body.update(name=name), "name-invalid", "name")

    def principal(name: str, value: dict[str, Any], field: str = "spec.principals[0]") -> BadBody:
        return changed(name, lambda body: body["spec"].update(principals=[value]), "spec-invalid", field)

    return (
        BadBody("truncated within", b'{"spec": {', 400, "bad-request"),
        BadBody("name that is not UTF-8", b'{"name": "\xff\xfe"}', 400, "bad-request"),
        BadBody("something behind it", json.dumps(valid).encode() + b" {}", 400, "bad-request"),
        changed("empty", dict.clear, "field-invalid", None),
        changed("unknown field", lambda body: body.update(extra=1), "field-invalid", None),
        changed("unknown field in spec", lambda body: body["spec"].update(extra=1), "spec-invalid", "spec"),
        changed(
            "unknown field in limits", lambda body: body["spec"]["limits"].update(swap=1), "spec-invalid", "spec.limits"
        ),
        changed("missing limit", lambda body: body["spec"]["limits"].pop("cpu"), "spec-invalid", "spec.limits"),
        changed("missing nonce", lambda body: body["spec"].pop("nonce"), "spec-invalid", "spec"),
        changed("short nonce", lambda body: body["spec"].update(nonce="00"), "spec-invalid", "spec.nonce"),
        changed(
            "nonce with a line end",
            lambda body: body["spec"].update(nonce="0" * 32 + "\n"),
            "spec-invalid",
            "spec.nonce",
        ),
        changed("version 2", lambda body: body["spec"].update(version=2), "spec-invalid", "spec.version"),
        changed("unknown backend", lambda body: body["spec"].update(backend="enclave"), "spec-invalid", "spec.backend"),
        changed("boolean as text", lambda body: body["spec"].update(restart_runs="no"), "spec-invalid", None),
        changed("nobody let in", lambda body: body["spec"].update(principals=[]), "spec-invalid", "spec.principals"),
        changed("name is a number", lambda body: body.update(name=7), "field-invalid", "name"),
        *map(named, ("", "a/b", "..", "a..b", "a b", "-a", "a" * 300, "0123456789abcdef", "ä", "a\n", "a\x00")),
        changed("name of 5000", lambda body: body.update(name="a" * 5000), "field-invalid", "name"),
        *(limit(name, 0) for name in ("memory", "cpu", "tasks", "workload", "run_time", "runs")),
        *(limit(name, -1) for name in ("memory", "files", "output")),
        *(limit("memory", value) for value in ("512M", 1.5, None, True, 2**64)),
        limit("memory", 2**52, "limit-exceeded"),
        limit("cpu", 100_000, "limit-exceeded"),
        limit("tasks", 1_000_000, "limit-exceeded"),
        limit("files", 2**52, "limit-exceeded"),
        limit("workload", 2**52, "limit-exceeded"),
        principal("principal without identity", {"roles": ["owner"]}),
        *(
            principal(
                f"certificate {text}", {"roles": ["owner"], "certificate": text}, "spec.principals[0].certificate"
            )
            for text in ("%%%%", "AAAA", "AAA", "A" * 20_000)
        ),
        principal(
            "a CA that may not sign",
            {
                "roles": ["owner"],
                "ca": valid["spec"]["principals"][0]["certificate"],
                "spiffe_id": "spiffe://a/b",
                "crl": "none",
            },
            "spec.principals[0].ca",
        ),
        principal("unknown role", {"roles": ["king"], "certificate": "AAAA"}, "spec.principals[0].roles[0]"),
        principal("half a CA", {"roles": ["owner"], "ca": "AAAA"}),
        principal("role twice", {"roles": ["owner", "owner"], "certificate": "AAAA"}),
    )
