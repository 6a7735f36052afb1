"""What holds for the repository as a whole: who imports whom, how files begin, and that words and commands agree."""

from __future__ import annotations

import ast
import importlib
import json
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import keep_protocol
from keep_protocol.errors import ErrorCode

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES: list[str] = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
SCRIPTS: dict[str, str] = PROJECT["project"]["scripts"]

MAX_LINES = 400

_SERVER_SIDE = {"fastapi", "starlette", "pydantic", "uvicorn"}
# Paid by every keep in start-up time and memory, or out of place in its trusted computing base.
_TOO_HEAVY = {*_SERVER_SIDE, "httpx", "rich", "cryptography", "pystemd"}
FORBIDDEN = {
    "keep_protocol": {*_TOO_HEAVY, "wasmtime", *PACKAGES} - {"keep_protocol"},
    "app_loader": {*_TOO_HEAVY, "keep_loader", "keep_net", "keep_manager", "keep_client", "testers"},
    "keep_loader": {*_TOO_HEAVY, "keep_net", "keep_manager", "keep_client", "testers"},
    "keep_guest": {
        *_TOO_HEAVY,
        "keep_loader",
        "keep_net",
        "keep_manager",
        "keep_client",
        "keep_attestation",
        "testers",
    },
    # It reads the code of the guest as files; what it predicts, verifiers compare with.
    "keep_image": {
        *_TOO_HEAVY,
        *("wasmtime", "app_loader", "keep_guest", "keep_loader", "keep_manager", "keep_client", "testers"),
        "keep_attestation",
    },
    # Outside the sandbox and with network: nothing that runs or loads workloads, and little of anything else.
    "keep_net": {*_TOO_HEAVY, "wasmtime", "h11", "app_loader", "keep_manager", "keep_client", "testers"},
    # A library of its own: whoever verifies needs nothing of what is verified.
    "keep_attestation": {
        *_SERVER_SIDE,
        *("pystemd", "wasmtime"),
        *("app_loader", "keep_loader", "keep_manager", "keep_client", "testers"),
    },
    "keep_client": {*_SERVER_SIDE, "pystemd", "wasmtime", "app_loader", "keep_loader", "keep_manager", "testers"},
    "testers": {*_SERVER_SIDE, "pystemd", "wasmtime", "app_loader", "keep_loader", "keep_manager"},
    # It may ask where the code of keeps lies and what the sandbox probe tries, which both are in their packages.
    "keep_manager": {"httpx", "rich", "wasmtime", "keep_net", "keep_client", "testers"},
}


def sources(*folders: str) -> list[Path]:
    """Python files of the given folders of the checkout."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def all_sources() -> list[Path]:
    return sources(*PACKAGES, "tests", "scripts", "benchmarks", "examples")


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def modules(package: str) -> list[str]:
    """Every module of a package, by its dotted name."""
    found = pkgutil.walk_packages([str(ROOT / package)], prefix=f"{package}.")
    return [package, *(module.name for module in found)]


def loaded_after_importing(*names: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after it has imported `names`."""
    script = "import importlib, json, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\n"
    script += "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", script, *names], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def imports_of(path: Path) -> set[str]:
    """Top-level modules that a file imports anywhere, in functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def begins_well(path: Path) -> bool:
    """Whether a file starts with a docstring and the future import; an empty `__init__.py` does."""
    tree = ast.parse(path.read_bytes())
    if path.name == "__init__.py" and len(tree.body) <= 1:
        return not tree.body or ast.get_docstring(tree) is not None
    if ast.get_docstring(tree) is None or len(tree.body) < 2:
        return False
    first = tree.body[1]
    return isinstance(first, ast.ImportFrom) and first.module == "__future__"


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def documents() -> list[Path]:
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("examples/**/*.md"))]


def test_every_package_has_a_rule_about_its_imports() -> None:
    assert FORBIDDEN.keys() == set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_loads_nothing_that_it_must_not_depend_on(package: str) -> None:
    assert loaded_after_importing(*modules(package)) & FORBIDDEN[package] == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_no_import_inside_a_function_goes_round_the_import_graph(package: str) -> None:
    found = {relative(path): imports_of(path) & FORBIDDEN[package] for path in sources(package)}
    assert {path: names for path, names in found.items() if names} == {}


def test_every_file_says_first_what_it_is_for() -> None:
    assert [relative(path) for path in all_sources() if not begins_well(path)] == []


def test_every_file_is_short_enough_to_have_one_subject() -> None:
    lengths = {relative(path): len(path.read_text().splitlines()) for path in all_sources()}
    assert {path: lines for path, lines in lengths.items() if lines > MAX_LINES} == {}


@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("*.lock")))
def test_a_lock_file_pins_by_hash_and_names_no_place_to_install_from(name: str) -> None:
    lines = (ROOT / name).read_text().splitlines()
    pinned = [line for line in lines if line[:1].isalnum()]
    assert pinned
    assert all(re.fullmatch(r"[a-z0-9.-]+==\S+( ; [^\\]+)? \\", line) for line in pinned)
    assert not [line for line in lines if "://" in line or line.startswith("-") or " @ " in line]


def test_the_locked_dependencies_are_those_of_the_project() -> None:
    named = {re.split(r"[<>=;]", entry)[0] for entry in PROJECT["project"]["dependencies"]}
    named |= {re.split(r"[<>=]", entry)[0] for entry in PROJECT["dependency-groups"]["dev"]}
    locked = set(re.findall(r"^([a-z0-9.-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    assert named - locked == set()


@pytest.mark.skipif(len(ROOT.parts) < 3, reason="the checkout's path is too short to be told from other words")
def test_no_file_names_the_checkout_that_it_was_written_in() -> None:
    texts = [*all_sources(), *documents(), *ROOT.glob("*.lock"), *ROOT.glob("scripts/*"), *ROOT.glob("systemd/**/*")]
    texts += [ROOT / "Makefile", ROOT / "pyproject.toml", ROOT / ".ci" / "run"]
    assert [relative(path) for path in texts if path.is_file() and str(ROOT) in path.read_text()] == []


@pytest.mark.parametrize("path", documents(), ids=relative)
def test_a_document_names_only_make_targets_and_files_that_exist(path: Path) -> None:
    text = path.read_text()
    assert set(re.findall(r"(?:^|`|\$ )make ([a-z]+)", text, re.MULTILINE)) - make_targets() == set()
    links = {link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link}
    assert [link for link in links if link and not (path.parent / link).exists()] == []


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_a_program_reports_the_version_of_the_project(name: str) -> None:
    module, _, function = SCRIPTS[name].partition(":")
    script = (
        f"import sys; from {module} import {function} as main; sys.argv = [{name!r}, '--version']; sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [name, keep_protocol.__version__]


def test_the_changelog_tells_of_the_version_of_the_project() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    newest = re.search(r"^## \[(\d+\.\d+\.\d+)\]|^The first version will be (\d+\.\d+\.\d+)\.", text, re.MULTILINE)
    assert newest is not None
    assert keep_protocol.__version__ in newest.groups()


def test_the_documentation_lists_every_error_code_under_its_status() -> None:
    rows = re.findall(r"^\| (\d{3}) \| (.*) \|$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    listed = {code: int(status) for status, codes in rows for code in re.findall(r"`([a-z-]+)`", codes)}
    assert listed == {code.value: code.status.value for code in ErrorCode}


@pytest.mark.parametrize("path", documents(), ids=relative)
def test_python_in_a_document_imports_names_that_exist(path: Path) -> None:
    for block in re.findall(r"^```python\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module:
                module = importlib.import_module(node.module)
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
