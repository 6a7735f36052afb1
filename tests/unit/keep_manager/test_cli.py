"""`keep-manager` as a command: its output, its errors of one line, its exit status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509

from keep_manager.config import Home, load_settings
from keep_manager.issued import revoked_serials
from keep_manager.pki import PkiPaths
from keep_manager.roles import RolesTable
from keep_manager.server import home_lock
from keep_manager.shutdown import end_manager
from keep_protocol import __version__
from tests.unit.keep_manager.running import make_request


def run(*arguments: str | Path, home: Path | None = None, text: str = "") -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "WASMKEEP_HOME"}
    if home is not None:
        environment["WASMKEEP_HOME"] = str(home)
    return subprocess.run(
        [sys.executable, "-m", "keep_manager.cli", *arguments],
        input=text,
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=False,
    )


def test_init_issue_and_revoke_work_together(folder: Path) -> None:
    home = Home(folder / "home")
    made = run("init", "--host", "keeps.example.org", "--domain", "d.example", home=home.path)
    assert made.returncode == 0, made.stderr
    assert "operator.pem" in made.stdout
    _, request = make_request()
    (folder / "alice.csr").write_bytes(request)
    quota = ("--role", "tenant", "--max-keeps", "2", "--max-memory", "1G", "--max-disk", "2G")
    issued = run("issue", "alice", "--csr", folder / "alice.csr", *quota, home=home.path)
    assert issued.returncode == 0, issued.stderr
    certificate = x509.load_pem_x509_certificate(issued.stdout.encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://d.example/user/alice"]
    rights = RolesTable(home.roles_file).rights("spiffe://d.example/user/alice")
    assert rights.quota is not None
    assert rights.quota.max_memory == 1024**3
    revoked = run("revoke", "alice", home=home.path)
    assert f"revoked {certificate.serial_number:x}" in revoked.stdout
    assert revoked_serials(PkiPaths(home.pki)) == {certificate.serial_number}


def test_a_request_may_come_by_standard_input(home: Home) -> None:
    _, request = make_request()
    out = home.path / "bob.pem"
    issued = run("issue", "bob", "--csr", "-", "--out", out, "--home", home.path, text=request.decode())
    assert issued.returncode == 0, issued.stderr
    assert x509.load_pem_x509_certificate(out.read_bytes())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("serve",), "give --home DIR, or set WASMKEEP_HOME"),
        (("serve", "--home", "/nonexistent/x"), "is no home yet: run `keep-manager init"),
        (("down", "--home", "/nonexistent/x"), "is no home yet"),
        (("init", "--home", "/nonexistent-root/x", "--listen", "nowhere"), "is not ADDRESS:PORT"),
        (("init", "--home", "/nonexistent-root/x", "--endpoint-ports", "5"), "not FIRST-LAST"),
        (("init", "--home", "/nonexistent-root/x", "--host", "a b"), "neither a DNS name nor an IP address"),
        (("init", "--home", "/proc/x"), "cannot be made"),
    ],
)
def test_mistakes_are_one_line_that_says_what_to_do(arguments: tuple[str, ...], message: str) -> None:
    result = run(*arguments)
    assert result.returncode == 1
    assert message in result.stderr
    assert result.stderr.startswith("keep-manager: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("issue", "../alice", "--csr", "x"), "cannot name an identity"),
        (("issue", "alice", "--csr", "/nonexistent"), "No such file"),
        (("issue", "alice", "--csr", "x", "--days", "0"), "is not from 1 to"),
        (("issue", "alice", "--csr", "x", "--role", "tenant"), "needs --max-keeps"),
        (("issue", "alice", "--csr", "x", "--max-keeps", "1"), "go with --role tenant"),
        (("revoke", "nobody"), "no valid certificate"),
        (("serve", "--listen", "192.0.2.1:1"), "cannot listen on"),
    ],
)
def test_mistakes_at_a_home_are_one_line_too(home: Home, arguments: tuple[str, ...], message: str) -> None:
    result = run(*arguments, home=home.path)
    assert result.returncode == 1, result.stderr
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_help_has_examples_and_the_version_is_the_packages() -> None:
    assert "examples:" in run("--help").stdout
    assert run("--version").stdout == f"keep-manager {__version__}\n"
    assert run("explode").returncode == 2


def test_doctor_passes_on_a_new_home_and_names_what_is_broken(home: Home) -> None:
    well = run("doctor", home=home.path)
    assert "ok    pki" in well.stdout
    key = PkiPaths(home.pki).folder / "server.key"
    key.chmod(0o644)
    home.roles_file.write_text("[[")
    ill = run("doctor", home=home.path)
    assert ill.returncode == 1
    assert "chmod 600" in ill.stdout
    assert "FAIL  roles" in ill.stdout


def test_down_without_a_manager_says_that_nothing_runs(home: Home) -> None:
    result = run("down", home=home.path)
    assert (result.returncode, result.stdout) == (0, "nothing else runs\n")


_HOLDER = """
import signal, sys
from pathlib import Path
from keep_manager.config import Home
from keep_manager.server import home_lock
with home_lock(Home(Path(sys.argv[1]))):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print("held", flush=True)
    signal.pause()
"""


def test_the_holder_of_the_lock_is_ended_and_nobody_else(home: Home) -> None:
    assert end_manager(home) is False
    with subprocess.Popen([sys.executable, "-c", _HOLDER, home.path], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert end_manager(home) is True
        assert holder.wait(10) == 0
    # The file still names the pid of the dead holder; whoever has it now is not asked.
    assert home.lock_file.read_text().strip() == str(holder.pid)
    assert end_manager(home) is False


def test_a_killed_holder_leaves_a_free_lock(home: Home) -> None:
    with subprocess.Popen([sys.executable, "-c", _HOLDER, home.path], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        holder.send_signal(signal.SIGKILL)
    with home_lock(home):
        assert load_settings(home)
