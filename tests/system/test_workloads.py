"""Every kind of workload in a real keep with its whole sandbox."""

from __future__ import annotations

import json
import threading
from pathlib import Path

from tests.system.deployment import Deployment, eventually, example, one_supervisor

AREA = "wasmkeep:geometry/figures@1.0.0#area"


def test_a_component_is_run_with_input_environment_and_folders(deployment: Deployment, tmp_path: Path) -> None:
    (text := tmp_path / "text").write_text("hello component")
    shout = str(example("shout"))
    ran = deployment.keepctl("run", shout, "--stdin", str(text), "--env", "GREETING=hi: ")
    assert (ran.stdout, ran.stderr) == ("HELLO COMPONENT", "hi: 15 characters\n")
    got = tmp_path / "loud"
    deployment.keepctl("run", shout, "--stdin", str(text), "--get", f"/output/loud:{got}", "--", "/output/loud")
    assert got.read_text() == "HELLO COMPONENT"
    failed = deployment.keepctl("run", shout, "--", "/input/not-writable", check=False)
    assert failed.returncode == 1


@one_supervisor
def test_python_source_is_run_as_it_is(deployment: Deployment, python_runtime: Path, tmp_path: Path) -> None:
    (program := tmp_path / "app.py").write_text("import sys\nprint(sys.argv, input())\nsys.exit(5)\n")
    (text := tmp_path / "text").write_text("a line\n")
    keep = deployment.create()["id"]
    options = ("--keep", keep, "--python-runtime", str(python_runtime), "--compress", "gzip", "--stdin", str(text))
    for _ in range(2):
        ran = deployment.keepctl("run", str(program), *options, "--", "x", check=False)
        assert (ran.returncode, ran.stdout, ran.stderr) == (5, "['app.py', 'x'] a line\n", "")
    assert deployment.json("inspect", keep)["kind"] == "python"
    deployment.keepctl("rm", keep)


def test_what_a_run_uses_is_shown_while_it_goes_and_when_it_is_over(deployment: Deployment) -> None:
    keep = deployment.create()["id"]
    deployment.keepctl("load", keep, str(example("endless")))

    def run() -> None:
        deployment.keepctl("run", "--keep", keep, str(example("endless")), "--timeout", "8s", check=False)

    def using() -> bool:
        runs = deployment.json("top", keep, "--once")["runs"]
        return any(run["state"] == "running" and run["usage"]["cpu"] > 0 and run["usage"]["memory"] > 0 for run in runs)

    running = threading.Thread(target=run)
    running.start()
    try:
        eventually(using)
    finally:
        running.join()
    (ended,) = deployment.json("top", keep, "--once")["runs"]
    assert (ended["exit"]["reason"], ended["usage"]["cpu"] > 0, ended["usage"]["wall"] >= 8) == ("timeout", True, True)
    assert "timeout" in deployment.keepctl("top", keep, "--once").stdout
    deployment.keepctl("rm", keep)


def test_functions_of_modules_and_components_are_inspected_and_called(deployment: Deployment) -> None:
    keep = deployment.create()["id"]
    deployment.keepctl("load", keep, str(example("arithmetic")))
    assert deployment.json("inspect", keep)["kind"] == "module"
    assert deployment.keepctl("call", keep, "add", "40", "2").stdout == "42\n"
    trapped = deployment.keepctl("call", keep, "divide", "1", "0", check=False)
    assert (trapped.returncode, trapped.stderr.split(":")[1]) == (1, " call-trapped")
    late = deployment.keepctl("call", keep, "fibonacci", "60", "--timeout", "200ms", check=False)
    assert "call-timeout" in late.stderr
    deployment.keepctl("load", keep, str(example("geometry")))
    assert {"name": "words", "type": "func(text: string) -> list<string>"} in deployment.json("inspect", keep)[
        "exports"
    ]
    assert json.loads(deployment.keepctl("call", keep, AREA, '{"rectangle": {"width": 2, "height": 3.5}}').stdout) == {
        "ok": 7.0
    }
    assert json.loads(deployment.keepctl("call", keep, "words", "to be").stdout) == ["to", "be"]
    deployment.keepctl("rm", keep)


def test_a_component_answers_http_requests(deployment: Deployment, tmp_path: Path) -> None:
    keep = deployment.create()["id"]
    deployment.keepctl("load", keep, str(example("web")))
    assert deployment.json("inspect", keep)["kind"] == "http-proxy"
    assert deployment.keepctl("http", keep, "/").stdout == "Hello from a keep!\n"
    (data := tmp_path / "data").write_text("text " * 50_000)
    echoed = deployment.keepctl("http", keep, "/echo", "-d", f"@{data}", "-i").stdout
    head, _, body = echoed.partition("\n\n")
    assert head.splitlines()[0] == "HTTP/1.1 200"
    assert "content-type: application/octet-stream" in head.splitlines()
    assert body == data.read_text()
    deployment.keepctl("load", keep, str(example("arithmetic")))
    refused = deployment.keepctl("http", keep, "/", check=False)
    assert (refused.returncode, refused.stderr.split(":")[1]) == (1, " workload-not-http")
    deployment.keepctl("rm", keep)
