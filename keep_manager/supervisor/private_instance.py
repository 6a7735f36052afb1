"""Our own `systemd --user`: found or started, minimal, in a mount namespace and a cgroup of its own.

It outlives the manager. Nothing of the machine is moved into it, and nothing of it shows outside: systemd would
otherwise move every process of the caller's cgroup, and refuse to start where /run/systemd/system is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from keep_manager.errors import SupervisorUnavailableError
from keep_manager.supervisor.bus_client import BusClient, BusError
from keep_manager.supervisor.cgroups import CgroupRecord, empty_cgroups, make_cgroups, remove_cgroups
from keep_manager.supervisor.static_users import copy_user_files
from keep_manager.supervisor.units import KeepUnit, KeepUser, write_units

_START_TIMEOUT = 15.0
_END_TIMEOUT = 30.0

_SYSTEMD_PATHS = (Path("/usr/lib/systemd/systemd"), Path("/lib/systemd/systemd"))

TARGETS = {
    "default.target": "[Unit]\nDescription=wasmkeep\nRequires=basic.target\nAfter=basic.target\nAllowIsolate=yes\n",
    "basic.target": "[Unit]\nDescription=Basic\n",
    "sockets.target": "[Unit]\nDescription=Sockets\n",
    "shutdown.target": "[Unit]\nDescription=Shutdown\nDefaultDependencies=no\nRefuseManualStart=yes\n",
    # Without it, neither SIGTERM nor `Exit` ends the instance.
    "exit.target": (
        "[Unit]\nDescription=Exit\nDefaultDependencies=no\n"
        "Requires=systemd-exit.service\nAfter=systemd-exit.service\nAllowIsolate=yes\n"
    ),
    "systemd-exit.service": (
        "[Unit]\nDescription=Exit\nDefaultDependencies=no\n"
        "Requires=shutdown.target\nAfter=shutdown.target\nSuccessAction=exit-force\n[Service]\nSlice=-.slice\n"
    ),
}
"""All that a user instance needs to start and to end; systemd's own unit folders are not read."""

# Runs as `sh -c SCRIPT sh CGROUP... -- COMMAND...`: joins the cgroups, then becomes COMMAND in the namespace.
# A fresh cpuset of cgroup v1 has no processors and takes nobody in; systemd does not use that hierarchy.
_JOIN_CGROUPS = """
joined=
while [ "$1" != -- ]; do echo 0 2>/dev/null > "$1/cgroup.procs" && joined=1; shift; done
[ "$joined" ] || { echo "no cgroup of our own can be joined" >&2; exit 70; }
shift
exec "$@"
"""

# Shared, so that systemd's own mounts for units reach the units' namespaces; after private, so that ours never reach
# the machine, whose `/` is shared where it was booted with systemd.
_OWN_MOUNTS = "mount -n --make-rshared /\n"

_KEEP_RESOLVER = """\
if [ -e /proc/self/fd/8 ]; then
    mkdir /run/systemd/resolve
    mount -n -c --bind /proc/self/fd/8 /run/systemd/resolve
fi
"""

# sd_booted(3) wants /run/systemd/system; systemd 252 takes the nodes that it mounts over hidden paths from
# /run/systemd/inaccessible, whatever XDG_RUNTIME_DIR says. 64 MB: a reload refuses below 16 MB of free space.
# mount -n: without it, mount(8) leaves /run/mount behind. What systemd-resolved has there stays: brokers ask it.
# mount -c: otherwise it reads /proc/self/fd/8 as a link, to what has been covered by then.
_ROOT_NAMESPACE = f"""
set -e
{_OWN_MOUNTS}[ ! -d /run/systemd/resolve ] || exec 8< /run/systemd/resolve
[ -d /run/systemd ] || {{ mkdir /run/systemd; : > "$XDG_RUNTIME_DIR/made-run-systemd"; }}
mount -n -t tmpfs -o mode=755,nosuid,nodev,size=64m wasmkeep /run/systemd
mkdir -p /run/systemd/system /run/systemd/inaccessible
{_KEEP_RESOLVER}cd /run/systemd/inaccessible
mkdir -m 000 dir; mkfifo -m 000 fifo; : > reg; chmod 000 reg
mknod -m 000 chr c 0 0 2>/dev/null || true; mknod -m 000 blk b 0 0 2>/dev/null || true
mkdir -p "$XDG_RUNTIME_DIR/systemd/inaccessible"
for kind in passwd group; do
    [ ! -e "$XDG_RUNTIME_DIR/$kind" ] || mount -n --bind "$XDG_RUNTIME_DIR/$kind" "/etc/$kind"
done
cd /
exec "$@" 8<&-
"""

_USER_NAMESPACE = f"""
set -e
{_OWN_MOUNTS}[ ! -d /run/systemd/resolve ] || exec 8< /run/systemd/resolve
runtime=/run/user/$(id -u)
mkdir -p "$XDG_RUNTIME_DIR/systemd"
exec 9< "$XDG_RUNTIME_DIR"
mount -n -t tmpfs -o mode=755,size=64m wasmkeep /run
mkdir -p /run/systemd/system /run/systemd/mount-rootfs /run/systemd/unit-root "$runtime"
{_KEEP_RESOLVER}case $XDG_RUNTIME_DIR in /run/*)
    mkdir -p "$XDG_RUNTIME_DIR"
    mount -n -c --bind /proc/self/fd/9 "$XDG_RUNTIME_DIR"
esac
mount -n --bind "$XDG_RUNTIME_DIR" "$runtime"
cd /
exec "$@" 8<&- 9<&-
"""


class PrivateInstance:
    """The private systemd of one deployment."""

    def __init__(self, *, runtime: Path, state: Path, deployment: str, keep_unit: KeepUnit) -> None:
        self._runtime = runtime
        self._state = state
        self._keep_unit = keep_unit
        self._deployment = deployment

    @property
    def bus_address(self) -> Path:
        """Its private socket."""
        return self._runtime / "systemd" / "private"

    async def ensure(self) -> None:
        """Find it, or empty what an earlier one left and start it. Raises `SupervisorUnavailableError`."""
        await asyncio.to_thread(self._ensure)

    async def end(self, bus: BusClient) -> None:
        """Stop all units and the instance, and remove what it left."""
        with contextlib.suppress(BusError, SupervisorUnavailableError):
            await bus.call("exit")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_TIMEOUT):
                while _answers(self.bus_address):  # noqa: ASYNC110 - systemd tells nobody when it is gone
                    await asyncio.sleep(0.05)
        await asyncio.to_thread(self.remove)

    def remove(self) -> None:
        """Kill what is left in its cgroup; remove the cgroup and the runtime directory."""
        record = self._recorded_cgroups()
        empty_cgroups(record)
        remove_cgroups(record)
        self._remove_private_folders()
        if (self._runtime / "made-run-systemd").exists():
            with contextlib.suppress(OSError):
                Path("/run/systemd").rmdir()
        shutil.rmtree(self._runtime, ignore_errors=True)

    def _ensure(self) -> None:
        prepare_runtime(self._runtime)
        with _locked(self._runtime / "start.lock"):
            units = self._state / "units"
            write_units(units, targets=TARGETS, unit=self._keep_unit)
            if _answers(self.bus_address):
                return
            # Processes of an instance that was killed live on; the next one would start a second of each.
            left = self._recorded_cgroups()
            empty_cgroups(left)
            remove_cgroups(left)
            self._remove_private_folders()
            shutil.rmtree(self._runtime / "systemd", ignore_errors=True)
            self._start(units)

    def _start(self, units: Path) -> None:
        systemd = next((path for path in _SYSTEMD_PATHS if path.exists()), None)
        if systemd is None:
            raise SupervisorUnavailableError("systemd is not installed; install the package `systemd`")
        root = os.geteuid() == 0
        namespace = ["unshare", *([] if root else ["--user", "--map-current-user", "--keep-caps"])]
        namespace += ["--mount", "--propagation", "private"]
        script = _ROOT_NAMESPACE if root else _USER_NAMESPACE
        if self._keep_unit.user is KeepUser.STATIC:
            copy_user_files(self._runtime)
        cgroups = make_cgroups(f"wasmkeep-{self._deployment}")
        self._cgroup_file.write_bytes(msgspec.json.encode(cgroups))
        command = [*namespace, "sh", "-c", script, "sh", str(systemd), "--user"]
        with _readiness(self._runtime / "ready") as ready:
            failure = self._state / "systemd-start.log"
            with failure.open("wb") as output:
                # Never a pipe: systemd would hold it open for ever.
                process = subprocess.Popen(
                    ["sh", "-c", _JOIN_CGROUPS, "sh", *cgroups.folders, "--", *command],
                    env=self._environment(units),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=output,
                    start_new_session=True,
                    cwd="/",
                )
            try:
                _await_ready(ready, process)
            except SupervisorUnavailableError as error:
                process.kill()
                process.wait()
                raise SupervisorUnavailableError(f"{error}: {failure.read_text(errors='replace').strip()}") from None
        if root:
            # Keeps run under uids of their own and have to reach it.
            (self._runtime / "systemd" / "notify").chmod(0o666)

    def _remove_private_folders(self) -> None:
        """What PrivateTmp= made for units that were never stopped: their systemd was killed."""
        for parent in (Path("/tmp"), Path("/var/tmp")):
            for folder in parent.glob(f"systemd-private-*-keep*@{self._deployment}-*"):
                if folder.lstat().st_uid == os.geteuid() and not folder.is_symlink():
                    shutil.rmtree(folder, ignore_errors=True)

    @property
    def _cgroup_file(self) -> Path:
        return self._runtime / "cgroups.json"

    def _recorded_cgroups(self) -> CgroupRecord:
        try:
            return msgspec.json.decode(self._cgroup_file.read_bytes(), type=CgroupRecord)
        except FileNotFoundError:
            return CgroupRecord((), ())

    def _environment(self, units: Path) -> dict[str, str]:
        control, transient = self._runtime / "systemd/user.control", self._runtime / "systemd/transient"
        return {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            # A home of its own: a user.conf of the caller would be obeyed.
            "HOME": str(self._state),
            # %S; systemd 252 takes the first, 254 and later the second.
            "XDG_CONFIG_HOME": str(self._state),
            "XDG_STATE_HOME": str(self._state),
            "XDG_RUNTIME_DIR": str(self._runtime),
            "SYSTEMD_UNIT_PATH": f"{control}:{transient}:{units}",
            "SYSTEMD_GENERATOR_PATH": "",
            "SYSTEMD_ENVIRONMENT_GENERATOR_PATH": "",
            "SYSTEMD_LOG_TARGET": "null",
            "NOTIFY_SOCKET": str(self._runtime / "ready"),
        }


def runtime_directory(deployment: str) -> Path:
    """Where a deployment's private instance has its runtime directory: short, on a tmpfs.

    systemd cleans RuntimeDirectory= up on a tmpfs only, and over-mounts /run where that is no mount point.
    Raises `SupervisorUnavailableError`.
    """
    candidates = [Path("/run")] if os.geteuid() == 0 else [Path(f"/run/user/{os.geteuid()}")]
    for parent in (*candidates, Path("/dev/shm")):
        if _is_tmpfs(parent) and os.access(parent, os.W_OK):
            return parent / f"wasmkeep-{deployment}"
    raise SupervisorUnavailableError("neither /run nor /dev/shm is a writable tmpfs; mount one for runtime files")


def prepare_runtime(runtime: Path) -> None:
    """Make the runtime directory, or check that it is ours. Raises `SupervisorUnavailableError`."""
    # Keeps with a uid of their own pass through it, so root's is 0711.
    mode = 0o711 if os.geteuid() == 0 else 0o700
    with contextlib.suppress(FileExistsError):
        runtime.mkdir(mode=0o700)
    found = runtime.lstat()
    if not runtime.is_dir() or runtime.is_symlink() or found.st_uid != os.geteuid():
        raise SupervisorUnavailableError(f"{runtime} belongs to somebody else; remove it")
    runtime.chmod(mode)


def _is_tmpfs(path: Path) -> bool:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount_point, kind, *_ = line.split()
        if mount_point == str(path) and kind == "tmpfs":
            return True
    return False


def _answers(address: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(address))
        except OSError:
            return False
    return True


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _readiness(path: Path) -> Iterator[socket.socket]:
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        ready.bind(str(path))
        try:
            yield ready
        finally:
            path.unlink(missing_ok=True)


def _await_ready(ready: socket.socket, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_TIMEOUT
    ready.settimeout(0.1)
    while time.monotonic() < deadline:
        with contextlib.suppress(TimeoutError):
            if b"READY=1" in ready.recv(4096):
                return
        if (status := process.poll()) is not None:
            raise SupervisorUnavailableError(f"`systemd --user` did not start: {_exit_text(status)}")
    raise SupervisorUnavailableError(f"`systemd --user` was not ready after {_START_TIMEOUT:g} s")


def _exit_text(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
