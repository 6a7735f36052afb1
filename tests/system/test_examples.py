"""The examples in other languages than C do in a keep what examples/README.md says of them."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.deployment import BIN, EXAMPLES, Deployment, eventually, example, one_supervisor
from tests.system.test_network import free_port

README = (EXAMPLES / "README.md").read_text()


@pytest.fixture
def keep(deployment: Deployment) -> Iterator[str]:
    """The id of a keep for one test."""
    keep_id: str = deployment.create()["id"]
    yield keep_id
    deployment.keepctl("rm", keep_id)


@pytest.mark.parametrize("folder", sorted({file.parent.name for file in EXAMPLES.glob("*/*")} - {"node_modules"}))
def test_every_example_is_described(folder: str) -> None:
    assert f"\n## {folder}\n" in README


def test_rust_reads_files_and_standard_input(deployment: Deployment, keep: str, tmp_path: Path) -> None:
    median = str(example("median"))
    (numbers := tmp_path / "numbers").write_text("3\n1\n\n2\n10\n")
    expected = "count 4\nmin 1\nmedian 2.5\nmean 4\nmax 10\n"
    assert deployment.keepctl("run", "--keep", keep, median, "--stdin", str(numbers)).stdout == expected
    sent = ("--put", f"{numbers}:/input/numbers", "--", "/input/numbers")
    assert deployment.keepctl("run", "--keep", keep, median, *sent).stdout == expected
    numbers.write_text("3\nthree\n")
    wrong = deployment.keepctl("run", "--keep", keep, median, "--stdin", str(numbers), check=False)
    assert (wrong.returncode, wrong.stderr) == (1, 'median: no number: "three"\n')


def test_cpp_sorts_lines(deployment: Deployment, keep: str) -> None:
    run = ("run", "--keep", keep, str(example("sort")), "--stdin", "-")
    assert deployment.keepctl(*run, input="b\na\nb").stdout == "a\nb\nb\n"
    assert deployment.keepctl(*run, "--", "-r", "-u", input="b\na\nb\n").stdout == "b\na\n"
    assert deployment.keepctl(*run, "--", "-x", input="", check=False).returncode == 2


def test_assemblyscript_shifts_letters(deployment: Deployment, keep: str) -> None:
    run = ("run", "--keep", keep, str(example("caesar")), "--stdin", "-")
    assert deployment.keepctl(*run, input="Hello, xyz!\n" * 1000).stdout == "Uryyb, klm!\n" * 1000
    assert deployment.keepctl(*run, "--", "3", input="Hello, xyz!\n").stdout == "Khoor, abc!\n"


def test_functions_of_zig_are_called(deployment: Deployment, keep: str) -> None:
    deployment.keepctl("load", keep, str(example("numbers")))
    assert deployment.json("inspect", keep)["kind"] == "module"
    assert deployment.keepctl("call", keep, "gcd", "1071", "462").stdout == "21\n"
    assert deployment.keepctl("call", keep, "is_prime", "65537").stdout == "1\n"
    assert deployment.keepctl("call", keep, "collatz", "27").stdout == "111\n"
    assert "call-trapped" in deployment.keepctl("call", keep, "collatz", "0", check=False).stderr


def test_a_reactor_of_wat_is_initialized_before_each_call(deployment: Deployment, keep: str) -> None:
    deployment.keepctl("load", keep, str(example("tally")))
    assert deployment.json("inspect", keep)["kind"] == "reactor"
    assert [deployment.keepctl("call", keep, "add", "5").stdout for _ in range(2)] == ["105\n", "105\n"]


def test_what_needs_features_of_webassembly_runs_where_they_are_on_and_nowhere_else(
    deployment: Deployment, keep: str
) -> None:
    trees = str(example("trees"))
    refused = deployment.keepctl("load", keep, trees, check=False)
    assert "feature-off" in refused.stderr
    assert 'add features = ["exceptions", "gc"] to Keep.toml' in refused.stderr
    deployment.keepctl("load", keep, trees, "--config", str(EXAMPLES / "trees" / "Keep.toml"))
    assert deployment.json("inspect", keep)["features"] == ["exceptions", "gc"]
    assert [deployment.keepctl("call", keep, "nodes", depth).stdout for depth in ("10", "-1")] == ["2047\n", "-1\n"]
    large = deployment.keepctl("call", keep, "nodes", "24", "--memory", "16M", check=False)
    assert "call-memory" in large.stderr


def test_rust_serves_a_port_with_the_keeps_certificate(deployment: Deployment, tmp_path: Path) -> None:
    port = free_port()
    (config := tmp_path / "Keep.toml").write_text(
        (EXAMPLES / "sums" / "Keep.toml").read_text().replace("port = 7000", f"port = {port}")
    )
    command = [BIN / "keepctl", "--home", deployment.home, "run", "--config", config, example("sums")]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        with eventually(lambda: _connected(port)) as connection, connection.makefile("rwb") as lines:
            for sent, expected in ((b"40", b"40"), (b"2", b"42"), (b"two", b'no number, or too large a sum: "two"')):
                lines.write(sent + b"\n")
                lines.flush()
                assert lines.readline() == expected + b"\n"
            lines.write(b"end\n")
            lines.flush()
        assert run.communicate(timeout=60) == (b"", b"")
    assert run.returncode == 0


def _connected(port: int) -> ssl.SSLSocket | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        return context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=30))
    except ConnectionError:
        return None


def test_functions_of_javascript_are_called(deployment: Deployment, keep: str, tmp_path: Path) -> None:
    found = shutil.which("componentize-qjs") or shutil.which(EXAMPLES / "node_modules" / ".bin" / "componentize-qjs")
    if found is None:
        pytest.skip("componentize-qjs is not installed (npm): the component in JavaScript cannot be built")
    folder, built = EXAMPLES / "slug", tmp_path / "slug.wasm"
    options = ("--stub-wasi", "--sync", "--opt-size", "--minify", "--output", built)
    subprocess.run([found, "--wit", folder / "slug.wit", "--js", folder / "slug.js", *options], check=True)
    deployment.keepctl("load", keep, str(built))
    assert json.loads(deployment.keepctl("call", keep, "slug", "Où est la Clé ?").stdout) == "ou-est-la-cle"
    pick = ("call", keep, "pick", json.dumps('{"a": {"b": [1, 2]}}'))
    assert json.loads(deployment.keepctl(*pick, '["a", "b"]').stdout) == {"ok": "[1,2]"}
    assert json.loads(deployment.keepctl(*pick, '["c"]').stdout) == {"error": "nothing is called c"}


@one_supervisor
def test_functions_of_python_are_called(deployment: Deployment, keep: str, tmp_path: Path) -> None:
    program = Path(sysconfig.get_path("scripts")) / "componentize-py"
    if not program.exists():
        pytest.skip("componentize-py is not installed (`make bench` does that): the component cannot be built")
    built = tmp_path / "summary.wasm"
    shutil.copy(EXAMPLES / "summary" / "app.py", tmp_path)
    wit = ("-d", EXAMPLES / "summary" / "summary.wit", "-w", "summary")
    subprocess.run([program, *wit, "componentize", "app", "-o", built], cwd=tmp_path, check=True, capture_output=True)
    deployment.keepctl("load", keep, str(built))
    assert json.loads(deployment.keepctl("call", keep, "summarize", "[1, 2, 3, 10]").stdout) == {
        "ok": {"count": 4, "mean": 4, "median": 2.5, "deviation": pytest.approx(4.08248290463863)}
    }
    assert json.loads(deployment.keepctl("call", keep, "summarize", "[1]").stdout) == {
        "error": "1 numbers: expected at least two"
    }
