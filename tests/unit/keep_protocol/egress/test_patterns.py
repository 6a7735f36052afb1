"""Patterns of hosts: the case tables of Enclaver, and what it does not refuse."""

from __future__ import annotations

import pytest

from keep_protocol.egress.errors import EgressError, HostError
from keep_protocol.egress.hosts import canonical_host
from keep_protocol.egress.patterns import canonical_pattern, matches_labels, parse_pattern

# seed-systems.md B2: pattern, hosts that match, hosts that don't.
TABLES = [
    (
        "example.com",
        ["example.com", "Example.COM"],
        ["example.net", ".example.com", "foo.com", "", "abc.example.com", "example."],
    ),
    (
        "*.com",
        ["example.com", "cnn.CoM"],
        ["example.net", "", "news.ycombinator.com", "beta.client1.saas.com", "example."],
    ),
    ("foo.*.com", ["foo.example.com"], ["example.net", "", "example.", "foo.bar.example.com", ".com"]),
    ("**.amazonaws.com", ["kms.us-east-1.amazonaws.com", "s3.amazonaws.com"], ["amazonaws.com", "", "example.com"]),
    ("66.254.33.22", ["66.254.33.22"], ["66.254.33.21"]),
    ("66.254.33.22/32", ["66.254.33.22"], ["66.254.33.21", "66.254.33.23"]),
    ("0.0.0.0/0", ["0.0.0.0", "1.2.3.4", "255.255.255.255"], ["::1", "example.com"]),
    (
        "66.254.33.22/24",
        ["66.254.33.1", "66.254.33.22", "66.254.33.255"],
        ["66.254.34.1", "67.254.33.22", "66.254.32.255"],
    ),
    ("::/0", ["::", "fc00::1234", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"], ["1.2.3.4", "example.com"]),
    ("**", ["example.com", "foo.bar.example.com"], ["169.254.169.254", "1.1.1.1", "[2001:db8::1]"]),
]
FILTERS = [
    (
        ["example.com", "*.net", "foo.*.com", "**.amazonaws.com"],
        ["example.com", "example.net", "kms.amazonaws.com", "kms.us-east-1.amazonaws.com"],
        ["cnn.com", "foo.bar.org"],
    ),
    (
        ["66.254.33.22", "66.254.34.22/32", "66.254.35.0/24"],
        ["66.254.33.22", "66.254.34.22", "66.254.35.22"],
        ["66.254.33.21", "66.254.34.23", "66.254.36.23"],
    ),
]


def matches(patterns: list[str], host: str) -> bool:
    """Whether one of `patterns` matches; what names no host is matched by none."""
    try:
        canonical = canonical_host(host)
    except HostError:
        return False
    return any(parse_pattern(pattern).matches(canonical) for pattern in patterns)


@pytest.mark.parametrize(
    ("patterns", "host", "expected"),
    [
        (patterns, host, expected)
        for patterns, good, bad in [*(([pattern], good, bad) for pattern, good, bad in TABLES), *FILTERS]
        for hosts, expected in ((good, True), (bad, False))
        for host in hosts
    ],
)
def test_a_pattern_matches_the_hosts_of_the_case_tables_and_no_others(
    patterns: list[str], host: str, expected: bool
) -> None:
    assert matches(patterns, host) is expected


def test_what_stands_to_the_left_of_two_stars_does_not_count_for_enclaver_and_is_refused_here() -> None:
    assert matches_labels(("foo", "**", "com"), ("x", "com"))
    with pytest.raises(EgressError, match=r"begin with `\*\*`"):
        parse_pattern("foo.**.com")


def test_one_star_matches_an_empty_label_for_enclaver_and_no_host_has_one_here() -> None:
    assert matches_labels(("*", "com"), ("", "com"))
    with pytest.raises(HostError, match="empty label"):
        canonical_host(".com")


def test_a_star_within_a_label_is_a_letter_and_therefore_refused() -> None:
    assert not matches_labels(("a*", "com"), ("abc", "com"))
    with pytest.raises(EgressError, match="whole labels"):
        parse_pattern("a*.com")


@pytest.mark.parametrize("text", ["10.0.*.*", "*.1.2.3", "10.**"])
def test_addresses_have_no_wildcards(text: str) -> None:
    with pytest.raises(EgressError):
        parse_pattern(text)


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("Example.COM.", "example.com"),
        ("*.BÜCHER.example", "*.xn--bcher-kva.example"),
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("10.1.2.3/32", "10.1.2.3"),
        ("[2001:DB8::0:1]", "2001:db8::1"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
    ],
)
def test_a_spec_holds_patterns_in_canonical_form_only(written: str, canonical: str) -> None:
    assert str(parse_pattern(written)) == canonical
    assert str(canonical_pattern(canonical)) == canonical
    with pytest.raises(EgressError, match="write '" + canonical.replace("*", r"\*")):
        canonical_pattern(written)


@pytest.mark.parametrize(
    "text", ["10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/", "10.0.0.0/8/8", "example.com/24", "1.2.3/8"]
)
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(HostError):
        parse_pattern(text)
