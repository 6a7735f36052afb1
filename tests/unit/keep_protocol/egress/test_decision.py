"""What a policy says of somebody, and which lists of rules are refused."""

from __future__ import annotations

import ipaddress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keep_protocol.egress.decision import explain
from keep_protocol.egress.errors import ContradictionError, EgressError
from keep_protocol.egress.rule_text import parse_rule
from keep_protocol.egress.rules import EgressPolicy, rule_text
from keep_protocol.egress.targets import parse_target
from keep_protocol.network_api import Decision
from keep_protocol.network_policy import Egress, EgressRule, NetworkPolicy, PortRange


def decide(allow: list[str], deny: list[str], target: str, *addresses: str, method: str | None = None) -> Decision:
    egress = Egress(allow=tuple(map(parse_rule, allow)), deny=tuple(map(parse_rule, deny)))
    resolved = tuple(map(ipaddress.ip_address, addresses)) if addresses else None
    return explain(EgressPolicy.of(egress), parse_target(target, method), resolved)


def policy(allow: list[str], deny: list[str]) -> NetworkPolicy:
    return NetworkPolicy(
        listen=(), egress=Egress(allow=tuple(map(parse_rule, allow)), deny=tuple(map(parse_rule, deny)))
    )


def test_nothing_is_allowed_by_default() -> None:
    decision = decide([], [], "https://example.com")
    assert (decision.allowed, decision.rule, decision.reason) == (False, None, "the spec allows no egress")


def test_deny_wins_however_the_host_is_written() -> None:
    for host in ("evil.example.com", "EVIL.example.com", "evil.example.com.", "ｅvil.example.com"):
        decision = decide(["**.example.com"], ["evil.example.com:*"], f"https://{host}/")
        assert not decision.allowed
        assert decision.rule == "deny[0] evil.example.com:*"


def test_a_denied_network_holds_for_names_that_resolve_into_it() -> None:
    decision = decide(["**.example.com"], ["8.8.0.0/16:*"], "https://a.example.com", "1.1.1.1", "8.8.8.8")
    assert not decision.allowed
    assert decision.reason == "the host resolves to 8.8.8.8, which it names"


def test_an_allowed_network_is_for_addresses_and_not_for_names() -> None:
    assert decide(["8.8.8.0/24"], [], "https://8.8.8.8").allowed
    assert not decide(["8.8.8.0/24"], [], "https://dns.google", "8.8.8.8").allowed


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fd00:ec2::254", "100.64.0.1", "::ffff:10.0.0.1"]
)
def test_one_address_that_is_not_public_refuses_the_host_unless_the_rule_says_private(address: str) -> None:
    refused = decide(["example.com"], [], "https://example.com", "1.1.1.1", address)
    assert not refused.allowed
    assert "does not say `private`" in refused.reason
    assert decide(["example.com:443+private"], [], "https://example.com", "1.1.1.1", address).allowed


@pytest.mark.parametrize("address", ["0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "ff02::1", "::7f00:1"])
def test_some_addresses_are_never_allowed(address: str) -> None:
    decision = decide(["example.com:443+private"], [], "https://example.com", address)
    assert not decision.allowed
    assert "which no host has" in decision.reason


def test_a_literal_address_is_its_own_only_address_whatever_is_said_of_it() -> None:
    assert not decide(["127.0.0.1:80"], [], "127.0.0.1:80", "1.1.1.1").allowed
    assert decide(["127.0.0.1:80+private"], [], "127.0.0.1:80").addresses == ("127.0.0.1",)


def test_a_host_without_addresses_is_not_allowed() -> None:
    egress = EgressPolicy.of(policy(["example.com"], []).egress)
    assert not explain(egress, parse_target("https://example.com"), ()).allowed


def test_a_rule_is_for_its_ports() -> None:
    rules = ["example.com:443,8000-8010"]
    assert [decide(rules, [], f"example.com:{port}").allowed for port in (443, 444, 7999, 8000, 8010, 8011)] == [
        *(True, False, False, True, True, False)
    ]
    assert decide(rules, [], "example.com:80").reason == (
        "allow[0] example.com:443,8000-8010: the port is not 443,8000-8010"
    )


def test_a_rule_with_methods_is_for_http_and_these_methods() -> None:
    rules = ["example.com:443+GET+HEAD"]
    assert decide(rules, [], "https://example.com", method="GET").allowed
    assert decide(rules, [], "https://example.com", method="get").allowed
    assert not decide(rules, [], "https://example.com", method="POST").allowed
    assert decide(rules, [], "https://example.com").reason.endswith("it is for HTTP: GET, HEAD")


def test_what_may_be_any_request_is_denied_by_a_rule_against_some() -> None:
    allow, deny = ["example.com"], ["example.com:443+DELETE"]
    assert decide(allow, deny, "https://example.com", method="GET").allowed
    assert not decide(allow, deny, "https://example.com", method="DELETE").allowed
    assert not decide(allow, deny, "https://example.com").allowed


def test_every_rule_is_explained() -> None:
    decision = decide(["a.com", "**.com:80"], ["b.com"], "https://c.com")
    assert [tried.rule for tried in decision.tried] == ["deny[0] b.com:443", "allow[0] a.com:443", "allow[1] **.com:80"]
    assert decision.reason == "allow[1] **.com:80: the port is not 80"


@pytest.mark.parametrize(
    ("allow", "deny", "named"),
    [
        (["a.com"], ["a.com"], ["allow[0] a.com:443", "deny[0] a.com:443"]),
        (["b.com", "a.com"], ["**.com:*"], ["allow[0] b.com:443", "deny[0] **.com:*"]),
        (["*.a.com"], ["**.a.com"], ["allow[0] *.a.com:443", "deny[0] **.a.com:443"]),
        (["10.1.0.0/16+private"], ["10.0.0.0/8"], ["allow[0] 10.1.0.0/16:443+private", "deny[0] 10.0.0.0/8:443"]),
        (["a.com:1-100"], ["a.com:1-50", "*.com:51-200"], ["deny[0] a.com:1-50", "deny[1] *.com:51-200"]),
        (["a.com:443+GET"], ["a.com:443+GET+POST"], ["allow[0] a.com:443+GET", "deny[0] a.com:443+GET+POST"]),
        (["a.com", "a.com"], [], ["allow[0] a.com:443", "allow[1] a.com:443"]),
        (["b.com"], ["a.com", "a.com"], ["deny[0] a.com:443", "deny[1] a.com:443"]),
    ],
)
def test_a_list_that_contradicts_itself_is_refused_with_the_rules_named(
    allow: list[str], deny: list[str], named: list[str]
) -> None:
    with pytest.raises(ContradictionError) as refused:
        policy(allow, deny)
    assert all(name in str(refused.value) for name in named)


@pytest.mark.parametrize(
    ("allow", "deny"),
    [
        (["**.com"], ["a.com"]),
        (["a.com:80,443"], ["a.com:80"]),
        (["a.com"], ["a.com:443+GET"]),
        (["**.a.com"], ["*.a.com"]),
        (["10.0.0.0/8"], ["10.1.0.0/16"]),
        (["1.1.1.1"], ["**"]),
    ],
)
def test_a_rule_that_leaves_something_is_no_contradiction(allow: list[str], deny: list[str]) -> None:
    policy(allow, deny)


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ({"host": "Example.com"}, r"egress.allow\[0\].host"),
        ({"host": "010.0.0.1"}, r"egress.allow\[0\].host"),
        ({"ports": []}, "ports"),
        ({"ports": [0]}, "ports"),
        ({"ports": [{"first": 9, "last": 8}]}, "ends before it begins"),
        ({"methods": []}, "methods"),
        ({"methods": ["get"]}, "methods"),
        ({"methods": ["GET", "GET"]}, "names a method twice"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_malformed_rule_is_refused_by_the_name_of_its_field(rule: dict[str, object], reason: str) -> None:
    good = {"host": "example.com", "ports": [443], "methods": None, "private": False}
    document = {"listen": [], "egress": {"allow": [good | rule], "deny": []}}
    with pytest.raises(msgspec.ValidationError, match=reason):
        msgspec.convert(document, NetworkPolicy)


def test_private_is_for_what_is_allowed() -> None:
    with pytest.raises(EgressError, match=r"egress.deny\[0\].private"):
        policy([], ["10.0.0.0/8+private"])


def test_a_port_is_named_once() -> None:
    with pytest.raises(ValueError, match="`listen` names a port twice"):
        NetworkPolicy(listen=(80, 80), egress=Egress((), ()))


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("https://api.example.com", EgressRule("api.example.com", (443,), None, False)),
        ("http://api.example.com/", EgressRule("api.example.com", (80,), None, False)),
        ("https://api.example.com:8443", EgressRule("api.example.com", (8443,), None, False)),
        ("**.example.com:443,8000-8010", EgressRule("**.example.com", (443, PortRange(8000, 8010)), None, False)),
        ("10.0.0.0/8:5432+private", EgressRule("10.0.0.0/8", (5432,), None, True)),
        ("[2001:db8::/32]:*+GET", EgressRule("2001:db8::/32", (PortRange(1, 65535),), ("GET",), False)),
    ],
)
def test_a_rule_is_read_as_people_write_it(text: str, rule: EgressRule) -> None:
    assert parse_rule(text) == rule
    assert parse_rule(rule_text(rule)) == rule


@pytest.mark.parametrize(
    "text",
    [
        *("", "https://", "https://a.com/path", "ftp://a.com", "a.com:0", "a.com:1-", "a.com:9-8", "a.com:x", "a.com:"),
        *("a.com+get", "a.com+", "u@a.com", "::1:443", "[::1", "2130706433", "a.com:443+private+PRI VATE"),
    ],
)
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(EgressError):
        parse_rule(text)


_LABEL = st.sampled_from(["a", "b", "example", "com"])
_NAMES = st.lists(_LABEL, min_size=1, max_size=4).map(".".join)
_PATTERNS = st.one_of(
    _NAMES,
    _NAMES.map("*.{}".format),
    _NAMES.map("**.{}".format),
    st.sampled_from(["**", "*", "10.0.0.0/8", "10.1.0.0/16", "1.2.3.4", "::/0"]),
)
_PORTS = st.lists(st.integers(1, 4).map(str), min_size=1, max_size=3, unique=True).map(",".join)
_METHODS = st.sampled_from(["", "+GET", "+GET+POST"])


def _written(host: str, ports: str, methods: str) -> str:
    return (f"[{host}]" if ":" in host else host) + f":{ports}{methods}"


_RULES = st.builds(_written, _PATTERNS, _PORTS, _METHODS)
_HOSTS = st.one_of(_NAMES, st.sampled_from(["10.1.2.3", "10.2.2.3", "1.2.3.4", "2606:4700::1"]))


@given(
    st.lists(_RULES, max_size=3),
    st.lists(_RULES, max_size=3),
    _HOSTS,
    st.integers(1, 4),
    st.sampled_from([None, "GET"]),
)
def test_more_to_deny_never_allows_more(
    allow: list[str], deny: list[str], host: str, port: int, method: str | None
) -> None:
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    for count in range(len(deny)):
        if not decide(allow, deny[:count], target, method=method).allowed:
            assert not decide(allow, deny[: count + 1], target, method=method).allowed


@given(st.lists(_RULES, min_size=1, max_size=2), st.lists(_RULES, max_size=3), _HOSTS, st.integers(1, 4))
def test_a_rule_that_is_refused_as_contradicted_never_allows_anything(
    allow: list[str], deny: list[str], host: str, port: int
) -> None:
    try:
        policy(allow[:1], deny)
    except ContradictionError as error:
        if "does not deny" not in str(error) and "do not deny" not in str(error):
            return
        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        for method in (None, "GET", "POST", "PUT"):
            assert not decide(allow[:1], deny, target, method=method).allowed
