"""Whether a keep's TPM evidence has what a verifier needs, on a real TPM (swtpm)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app_loader.attesters import tpm as attesters
from app_loader.attesters.tpm import QUOTED_PCRS, TpmAttester, boot_log
from app_loader.attesters.tpm_commands import Tpm
from app_loader.attesters.tpm_templates import GOOGLE_AK_CERTIFICATE, GOOGLE_AK_TEMPLATE, ecc_p256_template
from app_loader.attesters.tpm_transport import SocketTransport
from app_loader.attesters.tpm_wire import Algorithm, ObjectAttribute, TpmError
from keep_attestation.event_log.event import HashAlgorithm
from keep_attestation.tpm.bundle import decode_bundle
from keep_attestation.tpm.structures import parse_attest, parse_public
from tests.swtpm import running_swtpm


@pytest.fixture
def transport() -> Iterator[SocketTransport]:
    with running_swtpm() as path:
        transport = SocketTransport(str(path))
        yield transport
        transport.close()


def test_evidence_carries_the_data_the_registers_and_the_key(transport: SocketTransport) -> None:
    attester = TpmAttester(transport)
    bundle = decode_bundle(attester.quote(b"q" * 32))
    attest = parse_attest(bundle.quote)
    assert attest.extra_data == b"q" * 32
    assert attest.selection == {Algorithm.SHA256: QUOTED_PCRS}
    assert parse_public(bundle.ak).name == attester.ak_name
    assert bundle.ek_certificate is None


def test_the_key_is_made_once_and_is_the_same_after_a_restart(transport: SocketTransport) -> None:
    first = TpmAttester(transport)
    for _ in range(5):
        first.quote(b"again")
    first.close()
    second = TpmAttester(transport)
    assert second.ak == first.ak
    second.close()


def test_one_quote_leaves_nothing_loaded(transport: SocketTransport) -> None:
    for _ in range(5):
        assert decode_bundle(attesters.quote(transport, b"q", [0])).pcrs == {HashAlgorithm.SHA256: {0: bytes(32)}}


def test_a_register_that_changes_between_reading_and_quoting_is_read_again(
    transport: SocketTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    attester = TpmAttester(transport)
    read, changes = Tpm.read_pcrs, [True, False]

    def changing(tpm: Tpm, algorithm: int, registers: list[int]) -> dict[int, bytes]:
        values = read(tpm, algorithm, registers)
        if changes.pop(0):
            tpm.extend_pcr(15, {Algorithm.SHA256: b"x" * 32})
        return values

    monkeypatch.setattr(Tpm, "read_pcrs", changing)
    bundle = decode_bundle(attester.quote(b"q", [15]))
    assert bundle.pcrs[HashAlgorithm.SHA256][15] != bytes(32)
    changes[:] = [True] * 3
    with pytest.raises(TpmError, match="changed"):
        attester.quote(b"q", [15])


def test_on_google_s_machines_the_certified_key_is_made_of_google_s_template(
    transport: SocketTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = ecc_p256_template(ObjectAttribute(0x50072), signing=True, unique=bytes(64))
    stored = {GOOGLE_AK_CERTIFICATE: b"certificate", GOOGLE_AK_TEMPLATE: template}

    def read(tpm: Tpm, index: int) -> bytes:
        if index not in stored:
            raise TpmError("not defined")
        return stored[index]

    monkeypatch.setattr(Tpm, "read_nv", read)
    google = TpmAttester(transport)
    assert decode_bundle(google.quote(b"q", [0])).ak_certificate == b"certificate"
    google.close()
    del stored[GOOGLE_AK_TEMPLATE]
    own = TpmAttester(transport)
    assert decode_bundle(own.quote(b"q", [0])).ak_certificate is None
    assert own.ak_name != google.ak_name


def test_the_boot_log_is_none_where_it_is_absent_empty_or_too_large(tmp_path: Path) -> None:
    log = tmp_path / "binary_bios_measurements"
    assert boot_log(log) is None
    log.write_bytes(b"")
    assert boot_log(log) is None
    log.write_bytes(b"event")
    assert boot_log(log) == b"event"
    with log.open("wb") as file:
        file.truncate(attesters.MAX_BOOT_LOG_SIZE + 1)
    assert boot_log(log) is None


def test_a_keep_loads_neither_verifiers_nor_cryptography_for_it() -> None:
    code = (
        "import sys, app_loader.attesters.tpm;"
        "heavy = {'cryptography', 'keep_attestation', 'cbor2', 'asn1crypto', 'asyncio'} & set(sys.modules);"
        "sys.exit(', '.join(heavy) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
