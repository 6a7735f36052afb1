"""Whether the raw commands do on a real TPM (swtpm) what they say."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from app_loader.attesters.tpm_commands import OWNER, Tpm
from app_loader.attesters.tpm_templates import ATTESTATION_KEY_TEMPLATE, STORAGE_KEY_TEMPLATE
from app_loader.attesters.tpm_transport import DeviceTransport, SocketTransport
from app_loader.attesters.tpm_wire import Algorithm, PcrSelection, TpmError, pcr_selection, response_name
from tests.swtpm import running_swtpm

COUNTER = 0x0180_0010
BANK: PcrSelection = {Algorithm.SHA256: (7, 15)}


@pytest.fixture
def tpm() -> Iterator[Tpm]:
    with running_swtpm() as path, Tpm(SocketTransport(str(path))) as tpm:
        yield tpm


def test_random_bytes_differ(tpm: Tpm) -> None:
    assert len(tpm.random(32)) == 32
    assert tpm.random(32) != tpm.random(32)


def test_a_register_is_extended_and_read_back(tpm: Tpm) -> None:
    digest = hashlib.sha256(b"measured").digest()
    tpm.extend_pcr(15, {Algorithm.SHA256: digest})
    values = tpm.read_pcrs(Algorithm.SHA256, range(24))
    assert values[15] == hashlib.sha256(bytes(32) + digest).digest()
    assert sorted(values) == list(range(24))


def test_a_bank_that_the_tpm_does_not_have_is_an_error(tpm: Tpm) -> None:
    with pytest.raises(TpmError, match="TPM_RC_HASH"):
        tpm.read_pcrs(0x0012, [0])


def test_a_template_gives_the_same_key_again_in_its_hierarchy(tpm: Tpm) -> None:
    first, public = tpm.create_primary(OWNER, ATTESTATION_KEY_TEMPLATE)
    assert tpm.read_public(first) == (public, b"\x00\x0b" + hashlib.sha256(public).digest())
    tpm.flush(first)
    second, again = tpm.create_primary(OWNER, ATTESTATION_KEY_TEMPLATE)
    tpm.flush(second)
    assert again == public
    with pytest.raises(TpmError, match="TPM_RC_REFERENCE_H0"):
        tpm.read_public(second)


def test_a_sealed_secret_is_unsealed_while_the_registers_are_as_they_were(tpm: Tpm) -> None:
    parent, _ = tpm.create_primary(OWNER, STORAGE_KEY_TEMPLATE)
    created = tpm.seal(parent, b"K" * 32, tpm.pcr_policy(BANK))
    sealed = tpm.load(parent, created)
    assert tpm.unseal(sealed, BANK) == b"K" * 32
    tpm.extend_pcr(15, {Algorithm.SHA256: b"x" * 32})
    with pytest.raises(TpmError, match="TPM_RC_POLICY_FAIL") as error:
        tpm.unseal(sealed, BANK)
    assert error.value.code == 0x99D


def test_sessions_and_objects_are_not_left_behind_by_refusals(tpm: Tpm) -> None:
    parent, _ = tpm.create_primary(OWNER, STORAGE_KEY_TEMPLATE)
    sealed = tpm.load(parent, tpm.seal(parent, b"K", bytes(32)))
    for _ in range(5):
        with pytest.raises(TpmError, match="POLICY_FAIL"):
            tpm.unseal(sealed, BANK)


def test_a_changed_blob_does_not_load(tpm: Tpm) -> None:
    parent, _ = tpm.create_primary(OWNER, STORAGE_KEY_TEMPLATE)
    created = tpm.seal(parent, b"K" * 32, tpm.pcr_policy(BANK))
    changed = type(created)(created.private[:-1] + bytes([created.private[-1] ^ 1]), created.public)
    with pytest.raises(TpmError, match="TPM_RC_INTEGRITY"):
        tpm.load(parent, changed)


def test_a_counter_only_counts_up(tpm: Tpm) -> None:
    tpm.define_counter(COUNTER, b"auth")
    with pytest.raises(TpmError, match="TPM_RC_NV_UNINITIALIZED"):
        tpm.read_counter(COUNTER, b"auth")
    tpm.increment_counter(COUNTER, b"auth")
    first = tpm.read_counter(COUNTER, b"auth")
    tpm.increment_counter(COUNTER, b"auth")
    assert tpm.read_counter(COUNTER, b"auth") == first + 1
    with pytest.raises(TpmError, match="TPM_RC_NV_DEFINED"):
        tpm.define_counter(COUNTER, b"auth")
    with pytest.raises(TpmError, match="TPM_RC_BAD_AUTH"):
        tpm.increment_counter(COUNTER, b"other")
    tpm.remove_nv(COUNTER)
    tpm.define_counter(COUNTER, b"auth")
    tpm.increment_counter(COUNTER, b"auth")
    assert tpm.read_counter(COUNTER, b"auth") > first + 1


def test_seeds_and_counters_outlive_a_restart(tmp_path: Path) -> None:
    found: list[tuple[int, bytes]] = []
    for _ in range(2):
        with running_swtpm(state=tmp_path) as path, Tpm(SocketTransport(str(path))) as tpm:
            if not found:
                tpm.define_counter(COUNTER)
            tpm.increment_counter(COUNTER)
            handle, public = tpm.create_primary(OWNER, STORAGE_KEY_TEMPLATE)
            tpm.flush(handle)
            found.append((tpm.read_counter(COUNTER), public))
    assert found[0][1] == found[1][1]
    assert found[1][0] == found[0][0] + 1


def test_an_index_that_is_not_defined_is_an_error(tpm: Tpm) -> None:
    with pytest.raises(TpmError, match="TPM_RC_HANDLE"):
        tpm.read_nv(COUNTER)


def test_response_codes_have_names() -> None:
    assert response_name(0x99D) == "TPM_RC_POLICY_FAIL"
    assert response_name(0x18B) == "TPM_RC_HANDLE"
    assert response_name(0x902) == "TPM_RC_OBJECT_MEMORY"
    assert response_name(0x7F) == "TPM_RC 0x07f"


def test_a_selection_beyond_the_registers_is_refused() -> None:
    with pytest.raises(ValueError, match="PCR 24"):
        pcr_selection({Algorithm.SHA256: [24]})


class Answering:
    """A transport that gives prepared responses."""

    def __init__(self, *responses: bytes) -> None:
        self.responses = list(responses)
        self.commands: list[bytes] = []

    def transmit(self, command: bytes) -> bytes:
        self.commands.append(command)
        return self.responses.pop(0)

    def close(self) -> None:
        pass


def response(parameters: bytes, code: int = 0, tag: int = 0x8001) -> bytes:
    return tag.to_bytes(2, "big") + (10 + len(parameters)).to_bytes(4, "big") + code.to_bytes(4, "big") + parameters


def test_a_tpm_that_asks_to_try_again_is_asked_again() -> None:
    transport = Answering(response(b"", 0x922), response(b"", 0x908), response(b"\x00\x01r"))
    assert Tpm(transport).random(1) == b"r"
    assert len(set(transport.commands)) == 1


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x80\x01",
        response(b"\x00\x05r"),
        response(b"\x00\x01r") + b"surplus",
        response(b"\x00\x01r", tag=0x8002),
    ],
    ids=["nothing", "half a header", "cut", "longer than it says", "another tag"],
)
def test_a_response_that_is_none_is_an_error(raw: bytes) -> None:
    with pytest.raises(TpmError):
        Tpm(Answering(raw)).random(1)


@pytest.mark.parametrize("raw", [b"\x80\x01\x00\x00", b"\x80\x01\xff\xff\xff\xff\x00\x00\x00\x00"], ids=["cut", "huge"])
def test_a_socket_that_ends_or_announces_too_much_is_an_error(tmp_path: Path, raw: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        name = f"\0wasmkeep-test-{id(listener)}"
        listener.bind(name)
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(100)
                connection.sendall(raw)

        thread = threading.Thread(target=answer)
        thread.start()
        transport = SocketTransport(name)
        with pytest.raises(TpmError, match=r"the TPM (closed|announces)"):
            Tpm(transport).random(1)
        transport.close()
        thread.join()


def test_a_device_takes_a_command_in_one_write_and_gives_the_response_in_one_read(tmp_path: Path) -> None:
    # A file in place of the device: what is written comes back only when it is read from there on.
    device = tmp_path / "tpmrm0"
    device.write_bytes(bytes(12) + response(b"\x00\x01r"))
    transport = DeviceTransport(str(device))
    assert Tpm(transport).random(1) == b"r"
    transport.close()
    assert device.read_bytes()[:12] == bytes.fromhex("80010000000c0000017b0001")
    with pytest.raises(FileNotFoundError):
        DeviceTransport(str(tmp_path / "absent"))
