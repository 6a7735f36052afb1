"""What a plain keep imports, from its start to its end: each module more costs every keep time and memory."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest

from keep_protocol.handover import CONFIGURATION_FD, LISTEN_FD, Configuration
from keep_protocol.spec import canonical
from keep_protocol.states import AtRest, KeepRole
from tests.unit.app_loader.execution_harness import spec
from tests.unit.app_loader.pki import self_signed
from tests.unit.app_loader.serving import PATIENCE

PACKAGES = ("app_loader", "keep_guest", "keep_loader", "keep_protocol")
LIBRARIES = {"h11", "msgspec"}

WANTED = {
    "app_loader": """
        area_states at_rest at_rest.sealed_storage calls certificates clock compilation configuration_store connection
        deadlines disk_usage dispatch dormant_runner durable_files errors events execution file_room files files_guard
        folder_entries going_run handlers http_service identity keep kernel libcrypto main messages mounts oom paths
        plaintext_memory principals renewal request_head revocation route routes run_admission run_assignment
        run_folders run_records runner runner_messages runs sealer_source secret_delivery secret_files secret_store
        server session spool standard_input storage tls workload workload_modules
        workload_record
    """,
    "keep_loader": """
        __main__ backends backends.process errors handover lock main notification publication sandbox
    """,
    "keep_protocol": """
        bounded_log digests errors handover keep_api machine memory_folder names network_policy removal resource_names
        secret_api secret_sources spec states strict_json
    """,
}
"""Modules of ours that a keep without network, evidence, secrets and workload needs. What only some keeps need is
imported where it is used, so that the others are ready sooner and smaller; add a module here only if all need it."""

_NOT_FROM_STANDARD_LIBRARY = {"secrets", "random", "tempfile", "http.client", "urllib.request", "argparse", "sqlite3"}

_SCRIPT = """
import json, os, sys
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDS"] = "2"
for number, given in enumerate(sys.argv[2:4]):
    os.dup2(int(given), 3 + number)
del sys.argv[2:]
written = sys.stdout
from keep_loader.__main__ import start
status = start()
json.dump([name for name, module in sys.modules.items() if module is not None], written)
raise SystemExit(status)
"""


def imported_by_a_keep(folder: Path, at_rest: AtRest) -> set[str]:
    """Modules that the process of a keep has imported when it ends; it becomes ready before."""
    wanted = msgspec.structs.replace(spec(at_rest=at_rest), principals=(self_signed().pinned(KeepRole.OWNER),))
    configuration = Configuration(
        id="0" * 16, deployment="1" * 8, spec=canonical(wanted).decode(), domain="example.org", names=()
    )
    for name in ("state", "runtime", "host"):
        (folder / name).mkdir()
    descriptor = os.memfd_create("configuration")
    os.write(descriptor, msgspec.json.encode(configuration))
    environment = {
        "PYTHONDONTWRITEBYTECODE": "1",
        "NOTIFY_SOCKET": str(folder / "notify"),
        "INVOCATION_ID": "f" * 32,
        "STATE_DIRECTORY": str(folder / "state"),
        "RUNTIME_DIRECTORY": str(folder / "runtime"),
        "WASMKEEP_HOST_FOLDER": str(folder / "host"),
        "WASMKEEP_BROKER_FOLDER": str(folder / "broker"),
        "LISTEN_FDNAMES": f"{LISTEN_FD}:{CONFIGURATION_FD}",
    }
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifications,
        socket.create_server(("127.0.0.1", 0)) as listener,
        (folder / "modules").open("wb") as modules,
    ):
        notifications.bind(environment["NOTIFY_SOCKET"])
        notifications.settimeout(PATIENCE)
        descriptors = (listener.fileno(), descriptor)
        keep = subprocess.Popen(
            [sys.executable, "-I", "-c", _SCRIPT, f"{'1' * 8}-{'0' * 16}", *map(str, descriptors)],
            env=environment,
            pass_fds=descriptors,
            stdout=modules,
        )
        try:
            while b"READY=1" not in notifications.recv(4096):
                pass
            keep.send_signal(signal.SIGTERM)
            assert keep.wait(PATIENCE) == 0
        finally:
            keep.kill()
            keep.wait()
            os.close(descriptor)
    return set(json.loads((folder / "modules").read_text()))


@pytest.mark.parametrize("at_rest", AtRest)
def test_a_plain_keep_imports_nothing_that_only_others_need(at_rest: AtRest) -> None:
    with TemporaryDirectory(prefix="wk") as folder:
        imported = imported_by_a_keep(Path(folder), at_rest)
    ours = {name for name in imported if name.partition(".")[0] in PACKAGES}
    wanted = {f"{package}.{name}" for package, names in WANTED.items() for name in names.split()}
    assert ours - WANTED.keys() == wanted
    installed = {name.partition(".")[0] for name in imported} - sys.stdlib_module_names - set(PACKAGES)
    assert {name for name in installed if not name.startswith("_")} == LIBRARIES
    assert imported & _NOT_FROM_STANDARD_LIBRARY == set()
