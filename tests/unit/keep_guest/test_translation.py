"""OpenSSL where QEMU translates: recognised, told before it is loaded, and it listens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from keep_guest.translation import CAPABILITIES, CAPABILITIES_VARIABLE, CONFIGURATION, is_translated, prepare
from tests.unit.app_loader.pki import self_signed

TRANSLATED = "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: QEMU TCG CPU version 2.5+\n"
REAL = "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Xeon(R) Processor\n"
VARIABLES = (CAPABILITIES_VARIABLE, "OPENSSL_CONF")

HANDSHAKE = """
import hashlib, json, ssl, sys
server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
server.load_cert_chain(sys.argv[1])
client = ssl.create_default_context(cafile=sys.argv[1])
client.check_hostname = False
client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
client.verify_mode = ssl.CERT_NONE
forth, back = ssl.MemoryBIO(), ssl.MemoryBIO()
ends = client.wrap_bio(back, forth), server.wrap_bio(forth, back, server_side=True)
for end in ends * 2:
    try:
        end.do_handshake()
    except ssl.SSLWantReadError:
        pass
json.dump([ends[1].cipher()[0], hashlib.sha256(b"abc").hexdigest()], sys.stdout)
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        # What the test sets is taken back even so.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.parametrize(("processors", "translated"), [(TRANSLATED, True), (REAL, False), ("", False)])
def test_qemus_translator_is_recognised_by_the_name_of_its_processor(
    tmp_path: Path, processors: str, translated: bool
) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(processors)
    assert is_translated(path) is translated
    configuration = tmp_path / "openssl.cnf"
    prepare(path, configuration)
    assert configuration.is_file() is translated
    expected = (CAPABILITIES, str(configuration)) if translated else (None, None)
    assert tuple(map(os.environ.get, VARIABLES)) == expected


def test_a_process_prepared_so_prefers_chacha20_to_what_its_client_prefers(tmp_path: Path) -> None:
    configuration = tmp_path / "openssl.cnf"
    configuration.write_bytes(CONFIGURATION)
    certificate = self_signed().write(tmp_path)

    def shake_hands(variables: dict[str, str]) -> list[str]:
        environment = {**os.environ, **variables}
        command = [sys.executable, "-I", "-c", HANDSHAKE, str(certificate)]
        answer: list[str] = json.loads(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)
        return answer

    prepared = {CAPABILITIES_VARIABLE: CAPABILITIES, "OPENSSL_CONF": str(configuration)}
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert shake_hands(prepared) == ["TLS_CHACHA20_POLY1305_SHA256", digest]
    assert shake_hands({}) == ["TLS_AES_256_GCM_SHA384", digest]


def test_nothing_that_boots_a_machine_has_loaded_openssl_before_it_is_told() -> None:
    script = "import sys, keep_guest.boot; print(sorted({'_ssl', '_hashlib', 'hashlib', 'ssl'} & sys.modules.keys()))"
    command = [sys.executable, "-c", script]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "[]\n"
