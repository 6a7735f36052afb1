"""Keep.toml and Enarx.toml: what they mean, and that every mistake is told with its key and its line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from keep_client import InvalidArgumentError
from keep_client.configuration_file import ConfigurationFile, read_configuration
from keep_protocol.configuration_check import check_configuration
from keep_protocol.egress.rule_text import parse_rule
from keep_protocol.network_policy import NetworkPolicy
from keep_protocol.states import WasmFeature
from keep_protocol.workload_configuration import WorkloadConfiguration
from testers.keepctl.configuration_template import TEMPLATE
from tests.unit.app_loader.execution_harness import spec

ENARX = """
steward = "https://attest.example.org/"
args = ["--argument", "value"]
[env]
KEY = "value"
[[files]]
kind = "stdin"
[[files]]
kind = "stdout"
name = "out"
[[files]]
kind = "null"
[[files]]
kind = "listen"
prot = "tls"
name = "ingest"
[[files]]
kind = "listen"
prot = "tcp"
port = 9000
addr = "127.0.0.1"
name = "plain"
[[files]]
kind = "connect"
prot = "tcp"
host = "db.example.org"
"""

EVERYTHING = """
args = ["a"]
env = { LANG = "C" }
stdin = "stream"
stdout = "keep"
stderr = "null"
restart = true
features = ["gc", "memory64"]

[limits]
memory = "64M"
run_time = "2m"
output = 1000

[[directories]]
guest = "/data"
area = "data"
path = "sub"
writable = true

[[secrets]]
name = "db"
env = "DB"
[[secrets]]
name = "key"
file = "/secrets/key"

[[files]]
kind = "stdin"
name = "in"
[[files]]
kind = "listen"
name = "web"
prot = "tls"
port = 8443
addr = "::"
tls = { client_certificates = "required", roots = "ca.pem" }
[[files]]
kind = "connect"
host = "10.0.0.7"
prot = "tls"
port = 5432
[files.tls]
identity = "secret"
secret = "key"

[http]
enabled = true
wagi = true
port = 8080
public = true

[egress]
allow = ["https://api.example.com"]
deny = ["**.example.net:443"]
"""
PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


def read(folder: Path, text: str, name: str = "Keep.toml") -> ConfigurationFile:
    (folder / "ca.pem").write_text(PEM)
    (folder / name).write_text(text)
    return read_configuration(folder / name)


def configured(document: dict[str, Any]) -> WorkloadConfiguration:
    return msgspec.convert(document, WorkloadConfiguration)


def test_an_enarx_file_of_0_7_1_means_what_it_meant(tmp_path: Path) -> None:
    found = read(tmp_path, ENARX, "Enarx.toml")
    assert found.configuration == configured(
        {
            "args": ["--argument", "value"],
            "env": {"KEY": "value"},
            "mounts": [],
            "files": [
                {"kind": "stdin"},
                {"kind": "stdout", "name": "out"},
                {"kind": "null"},
                {"kind": "listen", "prot": "tls", "port": 443, "name": "ingest"},
                {"kind": "listen", "prot": "tcp", "port": 9000, "addr": "127.0.0.1", "name": "plain"},
                {"kind": "connect", "prot": "tcp", "port": 80, "host": "db.example.org"},
            ],
        }
    )
    assert found.network.listen == (443, 9000)
    assert found.network.egress.allow == (parse_rule("db.example.org:80"),)
    assert [re.sub(r"^.*?:(?=\d|\s)", "", warning) for warning in found.warnings] == [
        "2: steward: ignored: keeps prove themselves, and need no steward"
    ]


def test_an_enarx_file_of_0_6_is_read_with_a_warning(tmp_path: Path) -> None:
    text = '[[files]]\nkind = "listen"\nname = "a"\nhost = "x"\n[[files]]\nkind = "connect"\nhost = "h"\nport = 7\n'
    found = read(tmp_path, text, "Enarx.toml")
    assert (
        found.configuration.files
        == configured(
            {
                "files": [
                    {"kind": "listen", "name": "a", "prot": "tls", "port": 443},
                    {"kind": "connect", "host": "h", "prot": "tls", "port": 7},
                ]
            }
        ).files
    )
    assert len(found.warnings) == 3
    assert "Enarx.toml:4: files[0].host: ignored" in found.warnings[0]


def test_an_enarx_file_without_files_gives_no_streams_and_says_so(tmp_path: Path) -> None:
    found = read(tmp_path, "surprise = 1\n", "Enarx.toml")
    assert found.configuration == configured({"files": [], "mounts": []})
    assert ["ignored, as Enarx did" in found.warnings[0], "no standard streams" in found.warnings[1]] == [True, True]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('steward = "http://x"', "Enarx.toml:1: steward: expected a URL that begins with https://"),
        ('[[files]]\nkind = "tcp_listen"', "Enarx.toml:2: files[0].kind: expected one of"),
        ('[[files]]\nkind = "listen"\nprot = "tcp"', "Enarx.toml:1: files[0]: a file of kind 'listen' needs `name`"),
        ('[[files]]\nkind = "connect"\nprot = "tcp"', "files[0]: a file of kind 'connect' needs `host`"),
        (
            '[[files]]\nkind = "listen"\nname = "a:b"\nprot = "tcp"',
            "Enarx.toml:3: files[0].name: expected a name without",
        ),
        ('[[files]]\nkind = "listen"\nname = "a"\nprot = "udp"', 'Enarx.toml:4: files[0].prot: expected "tcp" or'),
        ('[[files]]\nkind = "stdin"\nnmae = "a"', "Enarx.toml:3: files[0].nmae: there is no such key; did you mean"),
        (
            '[[files]]\nkind = "listen"\nname = "a"\nprot = "tcp"\nport = 70000',
            "files[0].port: expected an integer of at most 65535",
        ),
        ("args = 1", "Enarx.toml:1: args: expected an array, found an integer"),
        ("env = { A = 1 }", "Enarx.toml:1: env.A: expected a string, found an integer"),
        ("[[files]]\nkind = []", "Enarx.toml:2: files[0].kind: expected one of"),
        ('[[files]]\nkind = "listen"\nname = "a"\nprot = ["tcp"]', 'Enarx.toml:4: files[0].prot: expected "tcp" or'),
        ("[[files]\n", "is no TOML"),
        ("files = 1", "Enarx.toml:1: files: expected an array, found an integer"),
        ("files = [1]", "Enarx.toml:1: files[0]: expected a table, found an integer"),
    ],
)
def test_enarx_files_with_errors_are_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        read(tmp_path, text, "Enarx.toml")
    assert words in str(error.value)


def test_every_key_of_a_keep_file_is_read(tmp_path: Path) -> None:
    found = read(tmp_path, EVERYTHING)
    assert found.configuration == configured(
        {
            "args": ["a"],
            "env": {"LANG": "C"},
            "stdin": "stream",
            "stderr": "null",
            "restart": True,
            "features": ["gc", "memory64"],
            "limits": {"memory": 2**26, "run_time": 120, "output": 1000},
            "mounts": [{"guest": "/data", "area": "data", "path": "sub", "writable": True}],
            "secrets": [{"name": "db", "env": "DB"}, {"name": "key", "file": "/secrets/key"}],
            "files": [
                {"kind": "stdin", "name": "in"},
                {
                    "kind": "listen",
                    "name": "web",
                    "prot": "tls",
                    "port": 8443,
                    "tls": {"client_certificates": "required", "roots": PEM},
                },
                {
                    "kind": "connect",
                    "host": "10.0.0.7",
                    "prot": "tls",
                    "port": 5432,
                    "tls": {"identity": "secret", "secret": "key"},
                },
            ],
            "http": {"wagi": True, "port": 8080, "public": True},
            "egress": [msgspec.to_builtins(parse_rule("https://api.example.com"))],
        }
    )
    assert found.network.listen == (8080, 8443)
    assert found.network.egress.allow == (parse_rule("10.0.0.7:5432+private"), parse_rule("https://api.example.com"))
    assert found.network.egress.deny == (parse_rule("**.example.net:443"),)


def test_a_keep_with_the_network_that_a_file_suggests_takes_it(tmp_path: Path) -> None:
    found = read(tmp_path, EVERYTHING)
    check_configuration(found.configuration, spec(restart_runs=True, network=found.network))


def _keys() -> list[tuple[int, str]]:
    return [
        (number, match[1])
        for number, line in enumerate(EVERYTHING.splitlines(), 1)
        if (match := re.match(r"([a-z_]+) = ", line))
    ]


@pytest.mark.parametrize(("number", "key"), _keys(), ids=[f"{number}-{key}" for number, key in _keys()])
def test_every_key_is_missed_when_it_is_misspelt_and_the_right_one_is_named(
    tmp_path: Path, number: int, key: str
) -> None:
    lines = EVERYTHING.splitlines()
    lines[number - 1] = lines[number - 1].replace(key, f"{key}z", 1)
    with pytest.raises(InvalidArgumentError) as error:
        read(tmp_path, "\n".join(lines))
    if key == "kind":
        assert "kind: expected one of" in str(error.value)
    else:
        assert f"Keep.toml:{number}: " in str(error.value)
        assert f"{key}z: there is no such key; did you mean `{key}`?" in str(error.value)


@pytest.mark.parametrize(("number", "key"), _keys(), ids=[f"{number}-{key}" for number, key in _keys()])
def test_every_key_with_a_value_of_the_wrong_kind_is_refused_at_its_line(tmp_path: Path, number: int, key: str) -> None:
    lines = EVERYTHING.splitlines()
    lines[number - 1] = f"{key} = 2026-01-01"
    with pytest.raises(InvalidArgumentError) as error:
        read(tmp_path, "\n".join(lines))
    assert re.search(rf"Keep\.toml:{number}: \S*{key}", str(error.value)), error.value


@pytest.mark.parametrize("header", ["limits", "[directories]", "[secrets]", "[files]", "files.tls", "http", "egress"])
def test_every_table_is_missed_when_it_is_misspelt(tmp_path: Path, header: str) -> None:
    wrong = header.replace("s]", "z]") if header.endswith("]") else f"{header}z"
    with pytest.raises(InvalidArgumentError, match="there is no such key; did you mean"):
        read(tmp_path, EVERYTHING.replace(f"[{header}]", f"[{wrong}]"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("wholly_unknown = 1", "wholly_unknown: there is no such key; known are args"),
        ('limits = { memory = "64X" }', "expected a number, or a string with one of K, M, G, T behind it"),
        ('egress = { allow = ["https://a/b"] }', "rules are about hosts"),
        ('egress = { allow = ["a.test"], deny = ["a.test"] }', "a.test"),
        ('features = ["GC", "exception"]', "Keep.toml:1: features[0]: there is no feature 'GC'; did you mean \"gc\"?"),
        (
            'features = ["gc", "exception"]',
            "features[1]: there is no feature 'exception'; did you mean \"exceptions\"?",
        ),
        ('features = ["quux"]', "known are exceptions, gc, memory64, relaxed-simd, wide-arithmetic"),
        ('features = ["threads"]', "no keep has threads: a keep runs a guest in one thread"),
        ('features = ["gc", "gc"]', "`features` names gc twice"),
        ("features = [1]", "features[0]: expected the name of a feature, found an integer"),
        ('[[files]]\nkind = "listen"\nname = "a"', "it needs `prot`"),
        (
            '[[files]]\nkind = "listen"\nname = "a"\nprot = "tls"\ntls = { roots = "none.pem" }',
            "none.pem cannot",
        ),
        ('[[files]]\nkind = "listen"\nname = "a"\nprot = "tcp"\ntls = {}', '`tls` comes with `prot` "tls" only'),
        ("ENV = {}", "ENV: there is no such key; did you mean `env`?"),
        ("limits = { run-time = 1 }", "limits.run-time: there is no such key; did you mean `run_time`?"),
        ('environment = { A = "b" }', "environment: there is no such key; did you mean `env`?"),
        ('stdin = "inherit"', """Keep.toml:1: stdin: expected one of "none", "stream", found 'inherit'"""),
        ('reuse = "yes"', "Keep.toml:1: reuse: expected a boolean, found a string"),
        ('args = ["\\u0000"]', "Keep.toml:1: args[0]: expected text without zero characters"),
        ('env = { "A=B" = "" }', "Keep.toml:1: env.A=B: the name of a variable"),
        ('env = { A = "\\u0000" }', "Keep.toml:1: env.A: the value of a variable has no zero"),
        ("limits = { memory = 0 }", "Keep.toml:1: limits.memory: expected an integer of at least 65536"),
        ('[[directories]]\nguest = ""\narea = "data"', "directories[0].guest: expected a string that is not empty"),
        ('[[directories]]\nguest = "/data"', "Keep.toml:1: directories[0]: it needs `area`"),
        (
            '[[secrets]]\nname = "a b"\nenv = "A"',
            "Keep.toml:2: secrets[0].name: expected the name of a secret: 1 to 63",
        ),
        (f"args = {['a'] * 4097}", "Keep.toml:1: args: expected an array of at most 4096 items"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        read(tmp_path, text)
    assert words in str(error.value)


@pytest.mark.parametrize("host", ["*.example.org", "a b", "0x7f.1", "db.example.org:80", "https://db.example.org", ""])
def test_a_host_to_connect_to_is_one_host_and_no_pattern(tmp_path: Path, host: str) -> None:
    text = f'[[files]]\nkind = "connect"\nprot = "tcp"\nhost = "{host}"'
    for name in ("Keep.toml", "Enarx.toml"):
        with pytest.raises(
            InvalidArgumentError, match=rf"{name}:4: files\[0\]\.host: expected the name or the address"
        ):
            read(tmp_path, text, name)


def test_a_mark_of_byte_order_at_the_beginning_is_passed_over(tmp_path: Path) -> None:
    assert read(tmp_path, '\ufeffargs = ["a"]').configuration.args == ("a",)


def test_a_file_that_is_missing_too_large_or_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "Keep.toml"
    with pytest.raises(InvalidArgumentError, match="cannot be read"):
        read_configuration(path)
    path.write_bytes(b"\xff")
    with pytest.raises(InvalidArgumentError, match="not UTF-8"):
        read_configuration(path)
    path.write_bytes(b"#" * 1_000_001)
    with pytest.raises(InvalidArgumentError, match="at most 1000000"):
        read_configuration(path)
    path.write_text("a = " + "[" * 5000)
    with pytest.raises(InvalidArgumentError):
        read_configuration(path)


def test_what_init_writes_changes_nothing_and_does_what_it_says_when_it_is_switched_on(tmp_path: Path) -> None:
    assert read(tmp_path, TEMPLATE) == ConfigurationFile(
        WorkloadConfiguration(), NetworkPolicy(listen=(), egress=read(tmp_path, TEMPLATE).network.egress)
    )
    found = read(tmp_path, TEMPLATE.replace("#: ", ""))
    configuration = found.configuration
    assert (configuration.args, configuration.env) == (("--verbose",), {"LANG": "C"})
    assert (configuration.stdin, configuration.stderr, configuration.restart) == ("stream", "null", True)
    assert (configuration.limits.memory, configuration.limits.run_time) == (64 * 2**20, 30)
    assert set(configuration.features) == set(WasmFeature)
    assert [file.__struct_config__.tag for file in configuration.files or ()] == [
        *("stdin", "stdout", "stderr", "listen", "connect")
    ]
    assert found.network.listen == (8080, 8443)
    assert len(found.network.egress.allow) == 3
    check_configuration(configuration, spec(restart_runs=True, network=found.network))
