"""Tests of `keep_client.specs`."""

from __future__ import annotations

from base64 import b64encode
from ssl import PEM_cert_to_DER_cert

import msgspec
import pytest

from keep_client import InvalidArgumentError, named_principal, new_spec, principal_of
from keep_client.specs import check_authorities
from keep_protocol.evidence import EvidenceKind
from keep_protocol.spec import DEFAULT_LIMITS, KeepSpec, Principal, canonical, decode_spec, spec_digest
from keep_protocol.states import Backend, CrlPolicy, KeepRole
from tests.unit.keep_client.certificates import ALICE, Authority, keep_certificate, self_signed

OWNER = [KeepRole.OWNER]


def test_a_self_signed_certificate_is_pinned() -> None:
    certificate = self_signed().certificate
    der = b64encode(PEM_cert_to_DER_cert(certificate)).decode()
    assert principal_of(certificate, OWNER) == Principal((KeepRole.OWNER,), certificate=der)


def test_a_certificate_of_a_ca_becomes_its_spiffe_id_and_needs_a_crl() -> None:
    authority = Authority()
    principal = principal_of(authority.client().certificate, OWNER, client_ca=authority.certificate)
    assert (principal.spiffe_id, principal.crl, principal.certificate) == (ALICE, CrlPolicy.REQUIRED, None)
    assert principal.ca == b64encode(PEM_cert_to_DER_cert(authority.certificate)).decode()


def test_a_certificate_of_a_ca_needs_that_ca() -> None:
    client = Authority().client().certificate
    with pytest.raises(InvalidArgumentError, match="give that CA's certificate"):
        principal_of(client, OWNER)
    with pytest.raises(InvalidArgumentError, match="was not issued by the CA"):
        principal_of(client, OWNER, client_ca=Authority().certificate)


def test_a_certificate_of_a_ca_without_a_spiffe_id_names_nobody() -> None:
    authority = Authority()
    with pytest.raises(InvalidArgumentError, match="0 URI names"):
        principal_of(authority.server().certificate, OWNER, client_ca=authority.certificate)


def test_what_is_no_certificate_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="not a certificate"):
        principal_of("hello", OWNER)


def test_every_default_is_written_out_and_no_two_specs_are_alike() -> None:
    principals = [principal_of(self_signed().certificate, OWNER)]
    first, second = new_spec(principals=principals), new_spec(principals=principals)
    assert msgspec.json.decode(canonical(first))["limits"] == msgspec.to_builtins(DEFAULT_LIMITS)
    assert spec_digest(canonical(first)) != spec_digest(canonical(second))
    assert decode_spec(canonical(first)) == first


def test_somebody_named_twice_has_the_roles_of_both() -> None:
    authority = Authority()
    caller = named_principal(ALICE, [KeepRole.CALLER], client_ca=authority.certificate)
    owner = principal_of(authority.client().certificate, OWNER, client_ca=authority.certificate)
    spec = new_spec(principals=[owner, caller, owner])
    assert [principal.roles for principal in spec.principals] == [(KeepRole.OWNER, KeepRole.CALLER)]


def test_a_spec_that_no_manager_would_take_is_refused_here() -> None:
    owner = principal_of(self_signed().certificate, OWNER)
    with pytest.raises(InvalidArgumentError, match="memory"):
        new_spec(principals=[owner], limits=msgspec.structs.replace(DEFAULT_LIMITS, memory=1))
    with pytest.raises(InvalidArgumentError, match="owner"):
        new_spec(principals=[msgspec.structs.replace(owner, roles=(KeepRole.CALLER,))])
    with pytest.raises(InvalidArgumentError, match="spiffe"):
        new_spec(principals=[owner, named_principal("alice", OWNER, client_ca=Authority().certificate)])


def test_a_spec_that_is_too_large_is_refused_here() -> None:
    long = [Principal((KeepRole.OWNER,), certificate=f"{number:04}" * 4000) for number in range(20)]
    with pytest.raises(InvalidArgumentError, match="bytes"):
        new_spec(principals=long)


def test_a_keep_that_distrusts_its_host_lets_the_hosts_ca_name_nobody() -> None:
    host, servers, elsewhere = Authority(), Authority(), Authority()
    ca = Authority().certificate + servers.certificate
    own = host.client().certificate

    def spec(*principals: Principal) -> KeepSpec:
        return new_spec(principals=principals, backend=Backend.SNP, evidence=EvidenceKind.SNP)

    pinned = principal_of(self_signed().certificate, OWNER)
    foreign = principal_of(elsewhere.client().certificate, OWNER, client_ca=elsewhere.certificate)
    check_authorities(spec(pinned, foreign), own, ca)
    with pytest.raises(InvalidArgumentError, match=r"principals\[1\].ca is the CA of the host itself"):
        check_authorities(spec(pinned, principal_of(own, OWNER, client_ca=host.certificate)), own, ca)
    named = named_principal(ALICE, OWNER, client_ca=servers.certificate)
    with pytest.raises(InvalidArgumentError, match=r"principals\[1\].ca is the CA of the host itself"):
        check_authorities(spec(pinned, named), own, ca)
    trusting = new_spec(principals=[principal_of(own, OWNER, client_ca=host.certificate)])
    check_authorities(trusting, own, ca)


def test_a_keeps_own_certificate_is_self_signed_too() -> None:
    assert principal_of(keep_certificate().certificate, OWNER).certificate is not None
