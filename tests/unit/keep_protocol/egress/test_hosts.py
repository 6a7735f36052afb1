"""One spelling for every host, and none for what programs read in different ways."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keep_protocol.egress.addresses import AddressKind, kind_of
from keep_protocol.egress.errors import EgressError, HostError
from keep_protocol.egress.hosts import canonical_host
from keep_protocol.egress.targets import parse_target, target_of


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("EXAMPLE.com", "example.com"),
        ("example.com.", "example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("ＥＸＡＭＰＬＥ．com", "example.com"),
        ("_dmarc.example.com", "_dmarc.example.com"),
        ("1e100.net", "1e100.net"),
        ("127.0.0.1", "127.0.0.1"),
        ("１２７．０．０．１", "127.0.0.1"),
        ("[::1]", "::1"),
        ("::FFFF:127.0.0.1", "127.0.0.1"),
        ("[::ffff:a9fe:a9fe]", "169.254.169.254"),
    ],
)
def test_spellings_of_a_host_are_one(text: str, canonical: str) -> None:
    assert str(canonical_host(text)) == canonical


@pytest.mark.parametrize(
    "text", ["0x7f.1", "0x7f000001", "2130706433", "017700000001", "127.1", "0177.0.0.1", "127.0.0.1."]
)
def test_a_numeric_spelling_of_an_address_is_refused_and_a_trailing_dot_is_none(text: str) -> None:
    if text == "127.0.0.1.":
        assert str(canonical_host(text)) == "127.0.0.1"
        return
    with pytest.raises(HostError, match=r"write 127\.0\.0\.1 if meant"):
        canonical_host(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", ".", "..", "a..b", "example.com..", "-a.com", "a-.com", "a b.com", "a%2eb.com", "a/b", "a@b", "a:b:c"),
        *(
            "[::1",
            "::1]",
            "[fe80::1%eth0]",
            "fe80::1%1",
            "1.2.3.4.5",
            "1.2.3.256",
            "08.1.1.1",
            "999",
            "0x",
            "example.0x7f",
        ),
        *(
            "a" * 64 + ".com",
            ".".join(["a" * 60] * 5),
            "exa\nmple.com",
            "example.com\x00",
            "a\x001.1",
            "\u200b.com",
            "xn--\u00fc.com",
        ),
    ],
)
def test_what_names_no_host_is_refused(text: str) -> None:
    with pytest.raises(HostError):
        canonical_host(text)


@given(st.text(max_size=60))
def test_the_canonical_form_is_canonical(text: str) -> None:
    try:
        host = canonical_host(text)
    except HostError:
        return
    assert canonical_host(str(host)) == host


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_inside_of_ipv6_is_of_the_same_kind(address: ipaddress.IPv4Address) -> None:
    for prefix in ("::ffff:", "64:ff9b::"):
        inside = ipaddress.IPv6Address(f"{prefix}{address}")
        assert kind_of(inside) is kind_of(address)


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("8.8.8.8", AddressKind.PUBLIC),
        ("2606:4700::1111", AddressKind.PUBLIC),
        ("127.255.0.1", AddressKind.LOOPBACK),
        ("::1", AddressKind.LOOPBACK),
        ("10.0.0.1", AddressKind.PRIVATE),
        ("172.31.255.255", AddressKind.PRIVATE),
        ("172.32.0.0", AddressKind.PUBLIC),
        ("192.168.0.1", AddressKind.PRIVATE),
        ("fd12::1", AddressKind.PRIVATE),
        ("169.254.1.1", AddressKind.LINK_LOCAL),
        ("fe80::1", AddressKind.LINK_LOCAL),
        ("100.64.0.1", AddressKind.CARRIER_GRADE_NAT),
        ("169.254.169.254", AddressKind.METADATA),
        ("fd00:ec2::254", AddressKind.METADATA),
        ("168.63.129.16", AddressKind.METADATA),
        ("::ffff:169.254.169.254", AddressKind.METADATA),
        ("64:ff9b::a9fe:a9fe", AddressKind.METADATA),
        ("2002:7f00:1::", AddressKind.TRANSLATED),
        ("2001:0:1::1", AddressKind.TRANSLATED),
        ("192.0.2.1", AddressKind.DOCUMENTATION),
        ("2001:db8::1", AddressKind.DOCUMENTATION),
        ("224.0.0.1", AddressKind.MULTICAST),
        ("ff02::1", AddressKind.MULTICAST),
        ("0.0.0.0", AddressKind.UNSPECIFIED),
        ("0.1.2.3", AddressKind.UNSPECIFIED),
        ("::", AddressKind.UNSPECIFIED),
        ("255.255.255.255", AddressKind.RESERVED),
        ("::7f00:1", AddressKind.RESERVED),
    ],
)
def test_an_address_is_of_the_kind_that_its_registry_says(address: str, kind: AddressKind) -> None:
    assert kind_of(ipaddress.ip_address(address)) is kind


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_no_address_is_public_here_that_python_does_not_take_for_global(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    embedded = isinstance(address, ipaddress.IPv6Address) and address in ipaddress.ip_network("64:ff9b::/96")
    if kind_of(address) is AddressKind.PUBLIC and not embedded:
        assert address.is_global
        assert not address.is_multicast


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("https://example.com/path?query#fragment", "example.com", 443),
        ("HTTP://Example.COM:8080", "example.com", 8080),
        ("https://example.com?@evil.com", "example.com", 443),
        ("https://example.com#@evil.com", "example.com", 443),
        ("ws://example.com", "example.com", 80),
        ("https://[2001:db8::1]:8443/", "2001:db8::1", 8443),
        ("db.example.com:5432", "db.example.com", 5432),
        ("postgres://db.example.com:5432/x", "db.example.com", 5432),
    ],
)
def test_a_target_is_what_stands_between_scheme_and_path(text: str, host: str, port: int) -> None:
    target = parse_target(text)
    assert (str(target.host), target.port) == (host, port)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("https://example.com@evil.com/", "names a user"),
        ("https://user:password@example.com", "names a user"),
        ("https://example.com\\@evil.com/", "backslash"),
        ("https://example.com\n.evil.com", "control character"),
        ("https:// example.com", "blank"),
        ("https:///path", "empty"),
        ("example.com", "names no port"),
        ("ftp://example.com", "names no port"),
        ("example.com:", "not a port"),
        ("example.com:0", "not a port"),
        ("example.com:65536", "not a port"),
        ("example.com:+80", "not a port"),
        ("example.com:٣", "not a port"),
        ("::1:80", "several colons"),
        ("[::1]80", "after an address in brackets"),
        ("https://" + "a" * 9000, "characters"),
    ],
)
def test_a_target_that_programs_read_in_different_ways_is_refused(text: str, reason: str) -> None:
    with pytest.raises(EgressError, match=reason):
        parse_target(text)


def test_methods_are_compared_in_upper_case() -> None:
    assert target_of("example.com", 443, "post").method == "POST"
    with pytest.raises(EgressError, match="not a method"):
        target_of("example.com", 443, "PO ST")
