"""The table of certificates beside SNP reports, as hosts fill it well or badly."""

from __future__ import annotations

import struct
from uuid import UUID

import pytest

from app_loader.attesters.certificate_table import endorsements_of_table
from app_loader.errors import AttesterError
from keep_attestation.ratls.collection import decode_endorsements
from keep_attestation.snp.certificate_table import endorsements_of_table as as_verifiers_read_it
from tests.unit.app_loader.attesters.certificate_tables import ARK, ASK, VCEK, VLEK, table_of
from tests.unit.app_loader.attesters.vectors import vector

HOSTS_OWN = UUID("12345678-1234-5678-1234-567812345678")


def certificates_of(table: bytes) -> tuple[bytes, ...]:
    return decode_endorsements(endorsements_of_table(table)).certificates


def test_all_certificates_of_amd_are_taken_in_the_tables_order() -> None:
    table = table_of((VCEK, b"vcek"), (ASK, b"ask"), (ARK, b"ark"))
    assert certificates_of(table) == (b"vcek", b"ask", b"ark")


def test_a_vlek_is_taken_too() -> None:
    assert certificates_of(table_of((VLEK, b"vlek"))) == (b"vlek",)


def test_what_else_a_host_puts_there_is_left_out() -> None:
    assert certificates_of(table_of((HOSTS_OWN, b"anything"), (VCEK, b"vcek"))) == (b"vcek",)


def test_padding_behind_the_certificates_is_no_matter() -> None:
    assert certificates_of(table_of((VCEK, b"vcek")) + bytes(4096)) == (b"vcek",)


def test_a_real_table_is_read_as_verifiers_read_it() -> None:
    table = vector("snp/milan-v3-dstack/auxblob_cert_table.bin")
    assert certificates_of(table) == as_verifiers_read_it(table).certificates
    assert len(certificates_of(table)) == 3


@pytest.mark.parametrize("size", [0, 1, 23])
def test_a_table_without_an_end_is_refused(size: int) -> None:
    with pytest.raises(AttesterError, match="has no end"):
        endorsements_of_table(VCEK.bytes + struct.pack("<II", 0, 4) + bytes(size))


@pytest.mark.parametrize(("offset", "size"), [(48, 5), (53, 0), (0xFFFFFFFF, 1), (1, 0xFFFFFFFF)])
def test_an_entry_that_points_behind_the_end_is_refused(offset: int, size: int) -> None:
    table = VCEK.bytes + struct.pack("<II", offset, size) + bytes(24) + b"vcek"
    with pytest.raises(AttesterError, match="points behind its end"):
        endorsements_of_table(table)
