"""Certificates of attestation chains: lenient in encoding where makers are, strict in what they mean."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from asn1crypto import core
from asn1crypto import x509 as asn1
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from keep_attestation import certificates
from keep_attestation.certificates import (
    MAX_CERTIFICATE_SIZE,
    build_chain,
    chain_problem,
    integer,
    issued_by,
    octet_string,
    read_certificate,
    read_certificates,
)
from keep_attestation.errors import MalformedCertificateError, MalformedEvidenceError, UnsupportedEvidenceError
from keep_attestation.signatures import SignatureScheme, load_public_key, signature_holds
from tests.unit.keep_attestation.authorities import (
    AFTER,
    BEFORE,
    CHAIN,
    INTERMEDIATE,
    LEAF,
    NOW,
    ROOT,
    Authority,
    altered,
    issue,
)

RSA_KEY = rsa.generate_private_key(65537, 2048)
SHA384_PSS = padding.PSS(padding.MGF1(hashes.SHA384()), 48)


def problem_of(*chain: Authority, at: datetime = NOW) -> str | None:
    return chain_problem([authority.certificate for authority in chain], at)


def test_a_chain_is_found_by_names_among_certificates_in_any_order_and_holds() -> None:
    stranger = issue("stranger")
    candidates = [stranger.certificate, ROOT.certificate, INTERMEDIATE.certificate]
    chain = build_chain(LEAF.certificate, candidates, ROOT.certificate)
    assert chain == CHAIN
    assert chain_problem(chain, NOW) is None


def test_a_chain_ends_where_no_issuer_is_known() -> None:
    assert build_chain(LEAF.certificate, [], ROOT.certificate) == (LEAF.certificate,)


def test_the_anchor_is_taken_for_its_name_and_not_a_certificate_that_came_along() -> None:
    impostor = issue("root")
    chain = build_chain(INTERMEDIATE.certificate, [impostor.certificate], ROOT.certificate)
    assert chain[-1].der == ROOT.der
    forged = issue("intermediate", impostor)
    assert problem_of(forged, ROOT) == "'intermediate': its signature is not by 'root'"


def test_certificates_that_issue_each_other_end_the_search() -> None:
    one, other = issue("one", issuer_name="other"), issue("other", issuer_name="one")
    chain = build_chain(one.certificate, [one.certificate, other.certificate], ROOT.certificate)
    assert [certificate.subject_name for certificate in chain] == ["one", "other"]


def test_a_chain_has_at_most_eight_certificates() -> None:
    authorities = [issue("0")]
    for number in range(1, 12):
        authorities.append(issue(str(number), authorities[-1]))
    pool = [authority.certificate for authority in authorities]
    assert len(build_chain(pool[-1], pool, pool[0])) == 8


@pytest.mark.parametrize(
    ("issuer", "reason"),
    [
        (issue("issuer", ca=False), "'leaf': its issuer 'issuer' is no CA"),
        (issue("issuer", ca=None), "'leaf': its issuer 'issuer' is no CA"),
        (issue("issuer", signs="CRLs"), "'leaf': its issuer 'issuer' may not sign certificates"),
    ],
    ids=["ca false", "no basic constraints", "no right"],
)
def test_an_issuer_must_be_a_ca_that_may_sign_certificates(issuer: Authority, reason: str) -> None:
    assert problem_of(issue("leaf", issuer, ca=False), issuer) == reason


def test_an_issuer_of_another_name_did_not_issue() -> None:
    assert problem_of(LEAF, ROOT) == "'leaf': its issuer is 'intermediate', not 'root'"


def test_a_ca_admits_as_many_cas_below_it_as_it_says() -> None:
    root = issue("root", path_length=0)
    intermediate = issue("intermediate", root)
    assert problem_of(issue("leaf", root), root) is None
    leaf = issue("leaf", intermediate, ca=False)
    assert problem_of(leaf, intermediate, root) == "'root' admits 0 CAs below it, there are 1"


@pytest.mark.parametrize("place", [0, 1])
def test_a_critical_extension_that_is_not_known_is_refused_anywhere_in_the_chain(place: int) -> None:
    extensions = [(("1.2.3.4", b"\x05\x00", True),) if place == number else () for number in range(2)]
    root = issue("root", extensions=extensions[1])
    leaf = issue("leaf", root, extensions=extensions[0])
    name = ("leaf", "root")[place]
    assert problem_of(leaf, root) == f"{name!r} has a critical extension that is not known: 1.2.3.4"
    assert problem_of(issue("leaf", ROOT, extensions=[("1.2.3.4", b"\x05\x00", False)]), ROOT) is None


@pytest.mark.parametrize(("at", "holds"), [(BEFORE, True), (AFTER, True), (BEFORE, False), (AFTER, False)])
def test_a_chain_holds_from_its_first_to_its_last_second(at: datetime, holds: bool) -> None:
    step = timedelta(0) if holds else timedelta(seconds=1 if at == AFTER else -1)
    problem = problem_of(LEAF, INTERMEDIATE, ROOT, at=at + step)
    assert (problem is None) is holds
    assert holds or "'leaf' is valid from 2026-05-02T12:00:00Z to 2026-07-01T12:00:00Z, not at" in str(problem)


def test_an_expired_anchor_vouches_for_nobody() -> None:
    root = issue("root", not_after=NOW - timedelta(seconds=1))
    assert "'root' is valid from" in str(problem_of(issue("leaf", root), root))


def test_extensions_may_not_come_twice() -> None:
    twice = issue("leaf", extensions=[("1.2.3.4", b"a", False), ("1.2.3.5", b"b", False)])
    same = twice.der.replace(core.ObjectIdentifier("1.2.3.5").dump(), core.ObjectIdentifier("1.2.3.4").dump())
    with pytest.raises(MalformedCertificateError, match=r"extension 1\.2\.3\.4 twice"):
        read_certificate(same)


def test_a_certificate_may_not_name_two_signature_algorithms() -> None:
    def alter(parsed: asn1.Certificate) -> None:
        parsed["signature_algorithm"]["algorithm"] = "sha384_ecdsa"

    with pytest.raises(MalformedCertificateError, match="two signature algorithms"):
        read_certificate(altered(LEAF, INTERMEDIATE.key, alter).der)


@pytest.mark.parametrize("text", [b"205101010000.50", b"00000101000000Z"], ids=["no zone", "year 0"])
def test_times_that_cannot_be_compared_are_refused(text: bytes) -> None:
    # From 2050 on they are GeneralizedTime, of which these are two.
    der = issue("leaf", not_after=datetime(2051, 1, 1, tzinfo=UTC)).der
    assert len(der.replace(b"20510101000000Z", text)) == len(der)
    with pytest.raises(MalformedCertificateError):
        read_certificate(der.replace(b"20510101000000Z", text))


def test_a_serial_number_of_zero_is_read_as_amd_writes_it() -> None:
    def alter(parsed: asn1.Certificate) -> None:
        parsed["tbs_certificate"]["serial_number"] = 0

    leaf = altered(LEAF, INTERMEDIATE.key, alter)
    assert leaf.certificate.serial == 0
    assert problem_of(leaf, INTERMEDIATE, ROOT) is None


def test_null_parameters_beside_ecdsa_are_read_as_mbedtls_writes_them() -> None:
    def alter(parsed: asn1.Certificate) -> None:
        for algorithm in (parsed["signature_algorithm"], parsed["tbs_certificate"]["signature"]):
            algorithm["parameters"] = core.Null()

    leaf = altered(LEAF, INTERMEDIATE.key, alter)
    assert core.Null().dump() in leaf.certificate.signed
    assert leaf.certificate.scheme is SignatureScheme.ECDSA_SHA256
    assert problem_of(leaf, INTERMEDIATE, ROOT) is None


@pytest.mark.parametrize(
    ("hash_algorithm", "pss", "accepted"),
    [
        (hashes.SHA384(), SHA384_PSS, True),
        (hashes.SHA256(), padding.PSS(padding.MGF1(hashes.SHA256()), 32), False),
        (hashes.SHA384(), padding.PSS(padding.MGF1(hashes.SHA384()), 20), False),
        (hashes.SHA512(), padding.PSS(padding.MGF1(hashes.SHA512()), 48), False),
    ],
    ids=["AMD's", "SHA-256", "short salt", "SHA-512"],
)
def test_pss_has_the_parameters_of_amds_chains_and_no_others(
    hash_algorithm: hashes.HashAlgorithm, pss: padding.PSS, accepted: bool
) -> None:
    root = issue("root", key=RSA_KEY, hash_algorithm=hash_algorithm, rsa_padding=pss)
    leaf = issue("leaf", root, hash_algorithm=hash_algorithm, rsa_padding=pss)
    expected = None if accepted else "'leaf': it is signed with rsassa_pss, which is not accepted"
    assert problem_of(leaf, root) == expected


def test_an_algorithm_that_is_not_accepted_is_named() -> None:
    root = issue("root", key=RSA_KEY)
    leaf = issue("leaf", root, hash_algorithm=hashes.SHA224(), rsa_padding=padding.PKCS1v15())
    assert leaf.certificate.scheme is None
    assert problem_of(leaf, root) == "'leaf': it is signed with sha224_rsa, which is not accepted"


@pytest.mark.parametrize("scheme", SignatureScheme)
def test_a_key_of_another_type_than_the_scheme_verifies_nothing(scheme: SignatureScheme) -> None:
    others = (ed25519.Ed25519PrivateKey.generate(), RSA_KEY if "ecdsa" in scheme else LEAF.key)
    for key in others:
        assert not signature_holds(key.public_key(), scheme, bytes(256), b"signed")
    assert not signature_holds(RSA_KEY.public_key(), None, bytes(256), b"signed")


def test_an_ecdsa_certificate_by_an_rsa_issuer_is_refused() -> None:
    rsa_root = issue("root", key=RSA_KEY)
    leaf = issue("leaf", ROOT)
    assert problem_of(leaf, rsa_root) == "'leaf': its signature is not by 'root'"


def test_each_scheme_that_is_accepted_verifies_what_it_signed() -> None:
    ecdsa = ec.generate_private_key(ec.SECP384R1())
    cases: list[tuple[Any, Any, Any, SignatureScheme]] = [
        (RSA_KEY, hashes.SHA256(), padding.PKCS1v15(), SignatureScheme.RSA_SHA256),
        (RSA_KEY, hashes.SHA384(), padding.PKCS1v15(), SignatureScheme.RSA_SHA384),
        (RSA_KEY, hashes.SHA384(), SHA384_PSS, SignatureScheme.RSA_PSS_SHA384),
        (ecdsa, hashes.SHA256(), None, SignatureScheme.ECDSA_SHA256),
        (ecdsa, hashes.SHA384(), None, SignatureScheme.ECDSA_SHA384),
    ]
    for key, hash_algorithm, rsa_padding, scheme in cases:
        root = issue("root", key=key, hash_algorithm=hash_algorithm, rsa_padding=rsa_padding)
        assert root.certificate.scheme is scheme
        assert issued_by(root.certificate, root.certificate) is None


def test_a_link_is_verified_once_and_still_judged_by_its_dates_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    verified = []

    def counted(*arguments: Any) -> bool:
        verified.append(arguments)
        return signature_holds(*arguments)

    monkeypatch.setattr(certificates, "signature_holds", counted)
    root = issue("root")
    leaf = issue("leaf", root)
    assert problem_of(leaf, root) is None
    assert problem_of(leaf, root) is None
    assert len(verified) == 1
    assert "is valid from" in str(problem_of(leaf, root, at=AFTER + timedelta(days=1)))


def test_what_is_remembered_of_a_good_link_helps_no_changed_one() -> None:
    root, stranger = issue("root"), issue("root")
    leaf = issue("leaf", root)
    assert problem_of(leaf, root) is None
    assert problem_of(leaf, stranger) == "'leaf': its signature is not by 'root'"
    name = leaf.der.index(b"leaf")
    changed = Authority(leaf.key, leaf.der[:name] + b"Leaf" + leaf.der[name + 4 :])
    assert problem_of(changed, root) == "'Leaf': its signature is not by 'root'"
    resigned = Authority(leaf.key, leaf.der[:-1] + bytes([leaf.der[-1] ^ 1]))
    assert problem_of(resigned, root) == "'leaf': its signature is not by 'root'"


def test_certificates_are_read_from_der_and_from_pem_of_any_number() -> None:
    pem = b"".join(x509.load_der_x509_certificate(a.der).public_bytes(serialization.Encoding.PEM) for a in (ROOT, LEAF))
    assert [c.subject_name for c in read_certificates(pem)] == ["root", "leaf"]
    assert [c.der for c in read_certificates(LEAF.der)] == [LEAF.der]
    assert [c.subject_name for c in read_certificates(LEAF.der + ROOT.der)] == ["leaf", "root"]
    assert [c.subject_name for c in read_certificates(b"Certificate:\n    Data:\n" + pem)] == ["root", "leaf"]
    with pytest.raises(MalformedCertificateError, match="one certificate expected, 2 came"):
        read_certificate(pem)


def test_a_private_key_in_pem_is_no_certificate() -> None:
    pem = LEAF.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with pytest.raises(MalformedCertificateError, match="PEM of certificates holds a PRIVATE KEY"):
        read_certificates(pem)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x30\x00",
        LEAF.der[:-1],
        LEAF.der + b"\x00",
        LEAF.der + ROOT.der,
        bytes(MAX_CERTIFICATE_SIZE + 1),
        b"-----BEGIN",
        b"\xff" * 40,
    ],
    ids=["nothing", "empty", "cut", "trailing", "two", "large", "half PEM", "noise"],
)
def test_what_is_no_certificate_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedCertificateError):
        read_certificate(data)


def test_a_certificate_tells_its_fingerprint_and_that_of_its_key() -> None:
    loaded = x509.load_der_x509_certificate(LEAF.der)
    spki = loaded.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(spki)
    assert LEAF.certificate.sha256 == loaded.fingerprint(hashes.SHA256()).hex()
    assert LEAF.certificate.spki_sha256 == digest.finalize().hex()


def test_keys_of_unknown_algorithms_are_refused_by_another_error_than_broken_ones() -> None:
    # id-ecPublicKey on a curve that nobody knows.
    algorithm = core.ObjectIdentifier("1.2.840.10045.2.1").dump() + core.ObjectIdentifier("1.2.3.4").dump()
    unknown = core.Sequence(
        contents=core.Sequence(contents=algorithm).dump() + core.BitString((0,) * 520).dump()
    ).dump()
    with pytest.raises(UnsupportedEvidenceError):
        load_public_key(unknown)
    with pytest.raises(MalformedCertificateError):
        load_public_key(b"\x30\x00")


def test_extension_contents_are_of_their_type_and_nothing_follows_them() -> None:
    assert octet_string(b"\x04\x02ab") == b"ab"
    assert integer(b"\x02\x01\x05") == 5
    for read in (octet_string, integer):
        for wrong in (b"", b"\x05\x00", b"\x04\x05ab", b"\x04\x02ab\x00", b"\x02\x01\x05\x00"):
            with pytest.raises(MalformedCertificateError):
                read(wrong)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.sampled_from([LEAF.der, ROOT.der]), st.integers(0, 1000), st.binary(min_size=1, max_size=4))
def test_a_changed_certificate_raises_nothing_but_our_errors_and_holds_in_no_chain(
    der: bytes, place: int, replacement: bytes
) -> None:
    place %= len(der)
    changed = der[:place] + replacement + der[place + len(replacement) :]
    try:
        certificate = read_certificate(changed)
        problem = chain_problem([certificate, INTERMEDIATE.certificate, ROOT.certificate], NOW)
    except MalformedEvidenceError:
        return
    assert problem is not None or certificate.signed == LEAF.certificate.signed
