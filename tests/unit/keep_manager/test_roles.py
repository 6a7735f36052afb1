"""The roles table: what it may say, and that changes are in force at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from keep_manager.errors import ConfigurationError
from keep_manager.roles import NO_RIGHTS, Quota, RolesTable, add_identity, parse_size, read_roles, write_first_roles
from keep_protocol.states import ManagerRole

OPERATOR = "spiffe://test.internal/user/operator"
ALICE = "spiffe://test.internal/user/alice"


@pytest.fixture
def table(folder: Path) -> Path:
    path = folder / "roles.toml"
    write_first_roles(path, OPERATOR)
    return path


def test_a_new_table_has_one_operator_and_nobody_else(table: Path) -> None:
    roles = RolesTable(table)
    assert roles.rights(OPERATOR).roles == {ManagerRole.OPERATOR}
    assert roles.rights(ALICE) is NO_RIGHTS


def test_a_change_is_in_force_at_the_next_question(table: Path) -> None:
    roles = RolesTable(table)
    add_identity(table, ALICE, [ManagerRole.TENANT], Quota(2, 10, 20))
    assert roles.rights(ALICE).quota == Quota(2, 10, 20)
    write_first_roles(table, OPERATOR)
    assert roles.rights(ALICE) is NO_RIGHTS


def test_a_broken_table_leaves_the_last_good_one_in_force_and_says_so(table: Path) -> None:
    roles = RolesTable(table)
    good = table.read_text()
    table.write_text(good + "[[[")
    assert roles.rights(OPERATOR).roles == {ManagerRole.OPERATOR}
    assert roles.error is not None
    table.unlink()
    assert roles.rights(OPERATOR).roles == {ManagerRole.OPERATOR}
    table.write_text(good + "\n")
    assert roles.rights(OPERATOR).roles == {ManagerRole.OPERATOR}
    assert roles.error is None


def test_adding_somebody_twice_is_refused_and_keeps_comments(table: Path) -> None:
    table.write_text("# ours\n" + table.read_text())
    add_identity(table, ALICE, [ManagerRole.AUDITOR], None)
    assert table.read_text().startswith("# ours\n")
    with pytest.raises(ConfigurationError, match="already"):
        add_identity(table, ALICE, [ManagerRole.OPERATOR], None)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("roles = []", "missing"),
        ("", "missing"),
        ('roles = ["king"]', "only operator, tenant, auditor exist"),
        ('roles = ["tenant"]', "needs `max_keeps`"),
        ('roles = ["tenant"]\nmax_keeps = 1\nmax_memory = "1Q"\nmax_disk = 1', "not a size"),
        ('roles = ["tenant"]\nmax_keeps = -1\nmax_memory = 1\nmax_disk = 1', "max_keeps"),
        ('roles = ["tenant"]\nmax_keeps = true\nmax_memory = 1\nmax_disk = 1', "max_keeps"),
        ('roles = ["auditor"]\nmax_keeps = 1', "for tenants only"),
        ('roles = ["auditor"]\nquota = 1', "unknown key"),
    ],
)
def test_an_entry_that_says_something_odd_is_refused(table: Path, entry: str, message: str) -> None:
    table.write_text(f'[identities."{ALICE}"]\n{entry}\n')
    with pytest.raises(ConfigurationError, match=message):
        read_roles(table)


@pytest.mark.parametrize("identity", ["*", "alice", "spiffe://d/", "spiffe://D/user/a", "spiffe://d/user/*"])
def test_identities_are_exact_names(table: Path, identity: str) -> None:
    table.write_text(f'[identities."{identity}"]\nroles = ["auditor"]\n')
    with pytest.raises(ConfigurationError, match="not a SPIFFE id"):
        read_roles(table)


def test_sizes_are_powers_of_1024() -> None:
    assert [parse_size(size) for size in (7, "7", "4K", "512M", "4GiB", "1T")] == [
        *(7, 7, 4096, 512 * 1024**2),
        *(4 * 1024**3, 1024**4),
    ]
