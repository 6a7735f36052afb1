"""Secrets that a spec has a keep fetch: what is refused, by which name, and that all of it is in the digest."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from keep_client.specs import new_spec
from keep_protocol.network_policy import Egress, EgressRule, NetworkPolicy
from keep_protocol.secret_requests import address_of, check_sources, requests_of
from keep_protocol.secret_sources import (
    AwsKmsSource,
    InstanceCredentials,
    KbsSource,
    SecretCredentials,
    SecretSource,
)
from keep_protocol.spec import Principal, canonical, decode_spec, spec_digest
from keep_protocol.states import EvidenceKind, KeepRole

KBS: dict[str, Any] = {"kind": "kbs", "name": "key", "url": "https://kbs.example", "resource": "default/key/1"}
KMS: dict[str, Any] = {
    "kind": "aws-kms",
    "name": "key",
    "region": "eu-central-1",
    "ciphertext": "AAAA",
    "credentials": {"kind": "imds"},
}


def decoded(document: dict[str, Any]) -> SecretSource:
    source: SecretSource = msgspec.json.decode(msgspec.json.encode(document), type=SecretSource)
    return source


def test_what_is_left_out_is_written_out_in_the_spec() -> None:
    for document in (KBS, KMS):
        source = decoded(document)
        written = msgspec.json.decode(msgspec.json.encode(source))
        assert set(written) == {"kind", *type(source).__struct_fields__}
        assert decoded(written) == source


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"name": "a/b"},
        {"name": "a\n"},
        {"url": "http://kbs.example"},
        {"url": "https://user@kbs.example"},
        {"url": "https://kbs.example?a"},
        {"url": "https://kbs.example#a"},
        {"url": "https://kbs.example/../x"},
        {"url": "https://kbs.example:0"},
        {"url": "https://kbs.example:65536"},
        {"url": "https://kbs.example\n"},
        {"url": "https://-a"},
        {"resource": "default/key"},
        {"resource": "default/key/1/2"},
        {"resource": "default/../1"},
        {"resource": "default/key/1\n"},
        {"resource": "default/key/%2e"},
        {"refresh": 0},
        {"refresh": 10**9},
        {"roots": []},
        {"roots": ["no base64"]},
        {"key": "dsa"},
        {"kind": "vault"},
        {"password": "x"},
    ],
)
def test_bad_broker_sources_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        decoded(KBS | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"region": "eu"},
        {"region": "eu-central-1\n"},
        {"region": "eu-central-1.attacker.example/"},
        {"ciphertext": ""},
        {"ciphertext": "%"},
        {"credentials": {"kind": "imds", "name": "x"}},
        {"credentials": {"kind": "secret"}},
        {"credentials": {"kind": "file", "name": "x"}},
        {"context": {"": "x"}},
        {"context": {"ä": "x"}},
        {"key_id": ""},
        {"url": "http://127.0.0.1"},
    ],
)
def test_bad_kms_sources_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        decoded(KMS | changes)


def test_addresses_are_read_from_urls() -> None:
    assert address_of("https://kbs.example/a/b/") == ("kbs.example", 443, "kbs.example", "/a/b")
    assert address_of("https://[2001:db8::1]:8443") == ("2001:db8::1", 8443, "[2001:db8::1]:8443", "")
    by_role = AwsKmsSource("key", "eu-central-1", "AAAA", InstanceCredentials())
    assert [(*request.address[:2], request.method) for request in requests_of(by_role)] == [
        ("kms.eu-central-1.amazonaws.com", 443, "POST"),
        ("169.254.169.254", 80, "PUT"),
        ("169.254.169.254", 80, "GET"),
    ]
    in_china = msgspec.structs.replace(by_role, region="cn-north-1")
    assert in_china.endpoint == "https://kms.cn-north-1.amazonaws.com.cn"
    by_secret = AwsKmsSource("key", "eu-central-1", "AAAA", SecretCredentials("aws"), url="https://vpce.example/")
    assert [request.address[:2] for request in requests_of(by_secret)] == [("vpce.example", 443)]


def rule(host: str, *, port: int = 443, methods: tuple[str, ...] | None = None, private: bool = False) -> EgressRule:
    return EgressRule(host=host, ports=(port,), methods=methods, private=private)


EVERYBODY = Egress(allow=(rule("**.example"), rule("**.amazonaws.com")), deny=())
BROKER = KbsSource("key", "https://kbs.example", "default/key/1")
AWS = AwsKmsSource("key", "eu-central-1", "AAAA", SecretCredentials("aws"))


@pytest.mark.parametrize(
    ("sources", "evidence", "named"),
    [
        ((BROKER, BROKER), EvidenceKind.SNP, "twice"),
        ((BROKER,), None, "`evidence` is one of"),
        ((BROKER,), EvidenceKind.NITRO, "`evidence` is one of"),
        ((BROKER,), EvidenceKind.SGX, "`evidence` is one of"),
        ((AWS,), EvidenceKind.SNP, "nitro"),
        ((AWS,), EvidenceKind.SIMULATED, "nitro"),
        ((AWS,), None, "nitro"),
        ((msgspec.structs.replace(AWS, name="aws"),), EvidenceKind.NITRO, r"`secrets\[0\]\.credentials`"),
    ],
)
def test_a_keep_that_could_not_fetch_them_is_refused(
    sources: tuple[SecretSource, ...], evidence: EvidenceKind | None, named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        check_sources(sources, evidence, EVERYBODY)


@pytest.mark.parametrize("evidence", ["snp", "tdx", "tpm", "simulated"])
def test_brokers_are_for_keeps_with_evidence_that_they_know(evidence: str) -> None:
    check_sources((BROKER,), EvidenceKind(evidence), EVERYBODY)
    with pytest.raises(ValueError, match="nitro"):
        check_sources((AWS,), EvidenceKind(evidence), EVERYBODY)


def test_kms_is_for_nitro() -> None:
    check_sources((AWS,), EvidenceKind.NITRO, EVERYBODY)


@pytest.mark.parametrize(
    ("source", "allow", "named"),
    [
        (BROKER, (), r"`secrets\[0\]\.url` needs POST kbs\.example:443, which `network\.egress` does not allow"),
        (BROKER, (rule("other.example"),), "needs POST"),
        (BROKER, (rule("kbs.example", port=8443),), "needs POST"),
        (BROKER, (rule("kbs.example", methods=("POST",)),), "needs GET"),
        (msgspec.structs.replace(BROKER, url="https://10.0.0.1"), (rule("10.0.0.1"),), "private"),
        (AWS, (rule("kms.eu-west-1.amazonaws.com"),), r"`secrets\[0\]\.region` needs POST kms\.eu-central-1"),
        (
            msgspec.structs.replace(AWS, credentials=InstanceCredentials()),
            (rule("*.eu-central-1.amazonaws.com"), rule("169.254.169.254", port=80)),
            r"`secrets\[0\]\.credentials` needs PUT 169\.254\.169\.254:80",
        ),
    ],
)
def test_what_the_egress_does_not_allow_is_refused_with_both_fields(
    source: SecretSource, allow: tuple[EgressRule, ...], named: str
) -> None:
    evidence = EvidenceKind.SNP if isinstance(source, KbsSource) else EvidenceKind.NITRO
    with pytest.raises(ValueError, match=named):
        check_sources((source,), evidence, Egress(allow=allow, deny=()))


def test_what_the_egress_allows_is_accepted() -> None:
    by_role = msgspec.structs.replace(AWS, credentials=InstanceCredentials())
    allowed = (rule("kms.eu-central-1.amazonaws.com"), rule("169.254.169.254", port=80, private=True))
    check_sources((by_role,), EvidenceKind.NITRO, Egress(allow=allowed, deny=()))
    check_sources((BROKER,), EvidenceKind.SNP, Egress(allow=(rule("kbs.example", methods=("GET", "POST")),), deny=()))


def test_sources_are_part_of_the_specs_digest() -> None:
    principal = Principal(roles=(KeepRole.OWNER,), certificate="AAAA")
    network = NetworkPolicy(listen=(), egress=EVERYBODY)
    with_one = new_spec(principals=[principal], evidence=EvidenceKind.SIMULATED, network=network, secrets=[BROKER])
    another = msgspec.structs.replace(with_one, secrets=(msgspec.structs.replace(BROKER, resource="default/key/2"),))
    digests = {spec_digest(canonical(spec)) for spec in (with_one, another)}
    assert len(digests) == 2
    assert decode_spec(canonical(with_one)) == with_one
