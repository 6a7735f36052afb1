"""The configuration file: what it may say, and that mistakes are named with file and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from keep_manager.config import Address, Home, TenantNetwork, load_settings, parse_address, write_private
from keep_manager.errors import ConfigurationError
from tests.unit.keep_manager.running import make_home


def test_init_writes_what_serve_reads(folder: Path) -> None:
    tenants = TenantNetwork((8000, 8999), private_egress=True)
    home = make_home(
        folder / "home",
        hosts=("a.example",),
        endpoint_ports=(20000, 20010),
        allow_shared_uid=True,
        tenant_network=tenants,
    )
    settings = load_settings(home)
    assert settings.hosts == ("a.example",)
    assert settings.endpoint_ports == (20000, 20010)
    assert settings.allow_shared_uid
    assert settings.tenant_network == tenants


def test_a_folder_that_is_no_home_says_how_to_make_one(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="keep-manager init --home"):
        load_settings(Home(folder))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("domain = 7", "`domain` is missing or not a string"),
        ('domain = "Über"', "not a lower-case DNS name"),
        ('deployment = "../../etc"', "8 hex digits"),
        ('listen = "localhost:1"', "is not ADDRESS:PORT"),
        ('systemd = "runit"', "not one of auto, system"),
        ("hosts = 7", "not a list of names"),
        ('liste = "127.0.0.1:1"', "unknown key `liste`"),
    ],
)
def test_a_wrong_value_is_named(home: Home, line: str, message: str) -> None:
    key = line.partition(" ")[0]
    text = home.settings_file.read_text()
    lines = [kept for kept in text.splitlines() if not kept.startswith(f"{key} =")]
    home.settings_file.write_text("\n".join([line, *lines]))
    with pytest.raises(ConfigurationError, match=message) as caught:
        load_settings(home)
    assert str(home.settings_file) in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('address = "127.0.0.1"', 'address = "0.0.0.0"', "name the address that clients connect to"),
        ('address = "127.0.0.1"', 'address = "here"', "not an IP address"),
        ("# ports = [20000, 20999]", "ports = [9, 8]", "FIRST <= LAST"),
        ("# ports = [20000, 20999]", 'ports = "all"', "FIRST <= LAST"),
        ("allow_shared_uid = false", 'allow_shared_uid = "no"', "neither true nor false"),
        ("private_egress = false", "private_egress = 0", "neither true nor false"),
        ("listen_ports = [1024, 65535]", "listen_ports = [0, 80]", "`keeps.listen_ports` is not"),
        ("[keeps]", "[keeps", "not TOML"),
        ("[keeps]", "[[keeps]]", "not a table"),
        ("[keeps]", "[keep]", "unknown key `keep`"),
    ],
)
def test_a_wrong_table_is_named(home: Home, old: str, new: str, message: str) -> None:
    text = home.settings_file.read_text()
    assert old in text
    home.settings_file.write_text(text.replace(old, new))
    with pytest.raises(ConfigurationError, match=message):
        load_settings(home)


def test_addresses_are_literal_and_ipv6_stands_in_brackets() -> None:
    assert parse_address("127.0.0.1:0") == Address("127.0.0.1", 0)
    assert str(parse_address("[::1]:7443")) == "[::1]:7443"
    for wrong in ("127.0.0.1", "::1:80", "[127.0.0.1]:80", "127.0.0.1:99999", "127.0.0.1:x", ":80", ""):
        with pytest.raises(ConfigurationError):
            parse_address(wrong)


def test_a_private_file_is_replaced_whole_and_stays_private(folder: Path) -> None:
    path = folder / "secret"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(folder.iterdir()) == [path]
