#!/bin/sh
# Makes the virtual environment .venv with the locked dependencies and wasmkeep itself; with --tests, also what only
# tests need of the system, as far as it can be had; with --machines, what virtual machines cannot do without.
#
# Missing system packages are installed when root; an ordinary user is told the exact line and the script stops
# with status 1. What is missing is found out by trying, not by asking the package manager: interpreters and
# libraries may come from elsewhere. PYTHON=… chooses the interpreter.
set -eu
# Keeps run under users of their own and must be able to read what is installed here.
umask 022
unset PYTHONPATH PYTHONHOME PYTHONPYCACHEPREFIX PYTHONOPTIMIZE
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_USER=0

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
cd "$root"
venv=$root/.venv
stamp=$venv/.wasmkeep-setup
packages='keep_manager keep_loader keep_net app_loader keep_guest keep_protocol keep_image keep_attestation keep_client testers'

say() { printf 'setup: %s\n' "$*"; }
fail() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

# Prints the interpreter behind a command when it is one that wasmkeep can be set up with.
# A venv's own interpreter is followed to its base, a version manager's shim to what it runs.
probe_python() {
    "$1" -I -c '
import os, sys, sysconfig
if sys.version_info < (3, 11):
    sys.exit(1)
import ctypes, ensurepip, sqlite3, ssl, venv
if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
    sys.exit(1)
print(os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable))
' 2>/dev/null
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        probe_python "$PYTHON"
        return
    fi
    # The one in use first: another PATH must not replace the environment under living keeps.
    for candidate in "$venv/bin/python" python3.13 python3.12 python3.11 python3 /usr/bin/python3; do
        if command -v "$candidate" >/dev/null && probe_python "$candidate"; then
            return
        fi
    done
    return 1
}

has_compiler() {
    # gcc alone, without the C library's headers and start files, cannot link.
    object=$(mktemp)
    status=0
    printf '#include <stdlib.h>\nint main(void) { return EXIT_SUCCESS; }\n' |
        cc -x c - -o "$object" 2>/dev/null || status=1
    rm -f "$object"
    return $status
}

has_libsystemd() {
    if command -v pkg-config >/dev/null; then
        pkg-config --exists libsystemd
    else
        [ -e /usr/include/systemd/sd-bus.h ]
    fi
}

has_systemd() { [ -x /lib/systemd/systemd ] || [ -x /usr/lib/systemd/systemd ]; }

# One word for each thing that is missing.
missing_needs() {
    find_python >/dev/null || echo python
    has_compiler || echo compiler
    command -v pkg-config >/dev/null || echo pkg-config
    has_libsystemd || echo libsystemd
    has_systemd || echo systemd
    command -v unshare >/dev/null || echo unshare
    command -v make >/dev/null || echo make
    command -v curl >/dev/null || echo curl
}

# Packages that bring the given needs, in the words of apt or dnf.
packages_for() {
    manager=$1
    shift
    for need in "$@"; do
        case $manager:$need in
        apt:python) echo python3 python3-venv python3-dev ;;
        dnf:python) echo python3 python3-devel ;;
        apt:compiler) echo gcc libc6-dev ;;
        dnf:compiler) echo gcc glibc-devel ;;
        apt:pkg-config) echo pkg-config ;;
        dnf:pkg-config) echo pkgconf-pkg-config ;;
        apt:libsystemd) echo libsystemd-dev ;;
        dnf:libsystemd) echo systemd-devel ;;
        *:unshare) echo util-linux ;;
        *) echo "$need" ;;
        esac
    done | tr '\n' ' ' | sed 's/ $//'
}

install_system_packages() {
    needs=$(missing_needs)
    [ -n "$needs" ] || return 0
    if [ -n "${PYTHON:-}" ] && ! probe_python "$PYTHON" >/dev/null; then
        fail "PYTHON=$PYTHON is not a Python 3.11 or later with venv, ensurepip, ssl, sqlite3, ctypes and its headers"
    fi
    if command -v apt-get >/dev/null; then
        manager=apt
        install='apt-get install --yes --no-install-recommends'
    elif command -v dnf >/dev/null; then
        manager=dnf
        install='dnf install --assumeyes --setopt=install_weak_deps=False'
    else
        fail "this system has neither apt-get nor dnf; install these and run this again:" "$needs"
    fi
    # shellcheck disable=SC2086
    wanted=$(packages_for $manager $needs)
    if [ "$(id -u)" != 0 ]; then
        printf 'setup: these system packages are missing; install them and run this again:\n\n' >&2
        printf '    sudo %s %s\n\n' "${install%% -*}" "$wanted" >&2
        exit 1
    fi
    say "installing $wanted"
    if [ $manager = apt ]; then
        apt-get update --quiet >/dev/null
    fi
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive $install $wanted </dev/null >/dev/null || fail "'$install $wanted' failed"
    needs=$(missing_needs)
    [ -z "$needs" ] || fail "still missing after '$install $wanted':" "$needs"
}

has_machine_tools() {
    command -v swtpm >/dev/null && command -v swtpm_setup >/dev/null &&
        command -v qemu-system-x86_64 >/dev/null && [ -e /usr/share/ovmf/OVMF.fd ]
}

machine_tools_line() {
    if command -v apt-get >/dev/null; then
        echo 'apt-get install --yes --no-install-recommends swtpm swtpm-tools qemu-system-x86 ovmf'
    elif command -v dnf >/dev/null; then
        echo 'dnf install --assumeyes swtpm swtpm-tools qemu-system-x86-core edk2-ovmf'
    else
        echo 'the packages of swtpm, its tools, QEMU for x86 and OVMF'
    fi
}

install_machine_tools() {
    say 'installing swtpm, a TPM in software, QEMU and its firmware, for virtual machines'
    if command -v apt-get >/dev/null; then
        apt-get update --quiet >/dev/null 2>&1 || true # the installation says what is wrong
    fi
    # shellcheck disable=SC2046
    DEBIAN_FRONTEND=noninteractive $(machine_tools_line) </dev/null >/dev/null 2>&1 && has_machine_tools
}

# For tests, which say what they skip without it.
want_machine_tools() {
    if has_machine_tools; then
        return
    fi
    if [ "$(id -u)" != 0 ]; then
        say "tests with a TPM or a virtual machine will be skipped; for them: sudo $(machine_tools_line)"
    elif ! install_machine_tools; then
        say "tests with a TPM or a virtual machine will be skipped: '$(machine_tools_line)' failed"
    fi
}

need_machine_tools() {
    if has_machine_tools; then
        return
    fi
    if [ "$(id -u)" != 0 ]; then
        printf 'setup: virtual machines need these; install them and run this again:\n\n    sudo %s\n\n' \
            "$(machine_tools_line)" >&2
        exit 1
    fi
    install_machine_tools || fail "'$(machine_tools_line)' failed, or /usr/share/ovmf/OVMF.fd is not where Debian has it"
}

# Everything the virtual environment depends on; another path too, because a venv cannot be moved.
fingerprint() {
    {
        echo "$root" "$python"
        "$python" -VV
        cat requirements.lock requirements-build.lock pyproject.toml keep_protocol/__init__.py scripts/setup.sh
    } | sha256sum
}

make_environment() {
    if ! [ -x "$venv/bin/python" ] || [ "$(cat "$venv/.wasmkeep-python" 2>/dev/null)" != "$root $python" ]; then
        say "making .venv with $python"
        "$python" -m venv --clear "$venv"
        echo "$root $python" >"$venv/.wasmkeep-python"
    fi
    pip="$venv/bin/python -m pip --quiet"
    say 'installing the locked dependencies (the first time takes a minute: pystemd is built from source)'
    # pystemd comes as source only. Its build tools are locked as well, so no build fetches anything by itself.
    $pip install --require-hashes --requirement requirements-build.lock
    $pip install --require-hashes --no-build-isolation --requirement requirements.lock
    $pip install --no-deps --no-build-isolation --editable .
    # Keeps see all this read-only: what is not compiled now would be compiled at every start of every keep.
    "$venv/bin/python" -m compileall -q "$venv/lib" >/dev/null || true
}

compile_packages() {
    # shellcheck disable=SC2086
    "$venv/bin/python" -m compileall -q $packages
    if [ "$(id -u)" = 0 ]; then
        # A clone made under umask 077 would hide the code from keeps, which do not run as root.
        # shellcheck disable=SC2086
        chmod -R a+rX $packages
    fi
}

install_system_packages
python=$(find_python)
now=$(fingerprint)
if [ "$(cat "$stamp" 2>/dev/null)" != "$now" ]; then
    make_environment
    echo "$now" >"$stamp"
    say "ready: $venv"
fi
compile_packages
case ${1:-} in
--tests) want_machine_tools ;;
--machines) need_machine_tools ;;
esac
