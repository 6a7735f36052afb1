"""The whole way with a real TPM in software: keys, quotes, credentials; and what a host without its secrets tries."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from app_loader.attesters.tpm import TpmAttester
from app_loader.attesters.tpm_commands import ENDORSEMENT, Tpm
from app_loader.attesters.tpm_templates import (
    ENDORSEMENT_ECC_TEMPLATE,
    ENDORSEMENT_RSA_CERTIFICATE,
    ENDORSEMENT_RSA_TEMPLATE,
    ecc_p256_template,
)
from app_loader.attesters.tpm_transport import SocketTransport
from app_loader.attesters.tpm_wire import Algorithm, ObjectAttribute, TpmError
from keep_attestation.certificates import read_certificate
from keep_attestation.errors import UnsupportedEvidenceError
from keep_attestation.evidence import Binding
from keep_attestation.tpm.bundle import decode_bundle
from keep_attestation.tpm.credential import Credential, make_credential
from keep_attestation.tpm.policy import TpmPolicy
from keep_attestation.tpm.structures import parse_public
from keep_attestation.tpm.verifier import examine_tpm
from keep_attestation.verdict import Outcome
from keep_protocol.tpm_evidence import PcrValues, encode_tpm_bundle
from tests.swtpm import running_swtpm
from tests.unit.keep_attestation.tpm.forge import tpm_evidence

NONCE = b"n" * 32
PCRS = (0, 7, 15)


@pytest.fixture
def transport() -> Iterator[SocketTransport]:
    with running_swtpm() as socket:
        transport = SocketTransport(str(socket))
        yield transport
        transport.close()


@pytest.fixture
def attester(transport: SocketTransport) -> TpmAttester:
    return TpmAttester(transport)


def refusals(body: bytes, policy: TpmPolicy, nonce: bytes = NONCE) -> set[str]:
    examination = examine_tpm(tpm_evidence(body), binding=Binding(qualifying_data=nonce), at=datetime.now(UTC))
    checks = [*examination.checks, *(rule.check(examination.facts) for rule in policy.rules())]
    return {check.name for check in checks if check.outcome is Outcome.FAIL}


def policy_for(attester: TpmAttester) -> TpmPolicy:
    zero = ("00" * 32,)
    references = {"sha256": {str(pcr): zero for pcr in PCRS}}
    return TpmPolicy(pcrs=references, ak_names=(attester.ak_name.hex(),), allow_unknown_ek=True)


def test_evidence_of_a_pinned_key_over_known_values_is_accepted(attester: TpmAttester) -> None:
    assert refusals(attester.quote(NONCE, PCRS), policy_for(attester)) == set()


def test_another_nonce_is_refused(attester: TpmAttester) -> None:
    assert refusals(attester.quote(NONCE, PCRS), policy_for(attester), b"m" * 32) == {"tpm.binding"}


def test_a_changed_register_is_refused(transport: SocketTransport, attester: TpmAttester) -> None:
    Tpm(transport).extend_pcr(15, {Algorithm.SHA256: b"x" * 32})
    assert refusals(attester.quote(NONCE, PCRS), policy_for(attester)) == {"tpm.pcr15"}


def test_changed_values_beside_a_genuine_quote_are_refused(transport: SocketTransport, attester: TpmAttester) -> None:
    Tpm(transport).extend_pcr(15, {Algorithm.SHA256: b"x" * 32})
    bundle = decode_bundle(attester.quote(NONCE, PCRS))
    lie: PcrValues = {Algorithm.SHA256: dict.fromkeys(PCRS, bytes(32))}
    body = encode_tpm_bundle(quote=bundle.quote, signature=bundle.signature, ak=bundle.ak, pcrs=lie)
    assert refusals(body, policy_for(attester)) == {"tpm.pcrs"}


def test_the_key_of_another_tpm_is_refused(attester: TpmAttester) -> None:
    with running_swtpm() as socket:
        other = SocketTransport(str(socket))
        body = TpmAttester(other).quote(NONCE, PCRS)
        other.close()
    assert refusals(body, policy_for(attester)) == {"tpm.trust"}


def test_an_unrestricted_key_is_refused_even_when_it_is_pinned(transport: SocketTransport) -> None:
    attributes = (
        ObjectAttribute.FIXED_TPM
        | ObjectAttribute.FIXED_PARENT
        | ObjectAttribute.SENSITIVE_DATA_ORIGIN
        | ObjectAttribute.USER_WITH_AUTH
        | ObjectAttribute.SIGN
    )
    tpm = Tpm(transport)
    handle, public = tpm.create_primary(ENDORSEMENT, ecc_p256_template(attributes, signing=True))
    quote, signature = tpm.quote(handle, NONCE, {Algorithm.SHA256: PCRS})
    values: PcrValues = {Algorithm.SHA256: tpm.read_pcrs(Algorithm.SHA256, PCRS)}
    body = encode_tpm_bundle(quote=quote, signature=signature, ak=public, pcrs=values)
    references = {"sha256": {"0": ("00" * 32,)}}
    pinned = TpmPolicy(pcrs=references, ak_names=(parse_public(public).name.hex(),), allow_unknown_ek=True)
    assert refusals(body, pinned) == {"tpm.ak"}
    # The host's trick: the same quote, with a restricted key's attributes written beside it. Its name gives it away.
    lie = public[:4] + (0x50072).to_bytes(4, "big") + public[8:]
    lied = encode_tpm_bundle(quote=quote, signature=signature, ak=lie, pcrs=values)
    assert refusals(lied, pinned) == {"tpm.trust"}


def test_a_software_tpm_is_refused_by_default(attester: TpmAttester) -> None:
    references = policy_for(attester).pcrs
    assert refusals(attester.quote(NONCE, PCRS), TpmPolicy(pcrs=references)) == {"tpm.trust"}
    pinned = TpmPolicy(pcrs=references, ak_names=(attester.ak_name.hex(),))
    assert refusals(attester.quote(NONCE, PCRS), pinned) == {"tpm.trust"}


@pytest.mark.parametrize("template", [ENDORSEMENT_RSA_TEMPLATE, ENDORSEMENT_ECC_TEMPLATE], ids=["RSA-2048", "P-256"])
def test_a_credential_is_given_out_by_its_tpm_for_its_key_alone(
    transport: SocketTransport, attester: TpmAttester, template: bytes
) -> None:
    tpm = Tpm(transport)
    handle, public = tpm.create_primary(ENDORSEMENT, template)
    tpm.flush(handle)
    endorsement_key = parse_public(public).key
    secret = os.urandom(32)
    made = make_credential(endorsement_key, attester.ak_name, secret)
    assert attester.activate_credential(made.blob, made.encrypted_secret, template) == secret
    for_another_key = make_credential(endorsement_key, b"\x00\x0b" + bytes(32), secret)
    with pytest.raises(TpmError, match="INTEGRITY"):
        attester.activate_credential(for_another_key.blob, for_another_key.encrypted_secret, template)
    changed = Credential(made.blob[:-1] + bytes([made.blob[-1] ^ 1]), made.encrypted_secret)
    with pytest.raises(TpmError, match="INTEGRITY"):
        attester.activate_credential(changed.blob, changed.encrypted_secret, template)


def test_a_credential_for_another_tpm_is_not_given_out(attester: TpmAttester) -> None:
    stranger = ec.generate_private_key(ec.SECP256R1()).public_key()
    made = make_credential(stranger, attester.ak_name, b"secret")
    with pytest.raises(TpmError):
        attester.activate_credential(made.blob, made.encrypted_secret, ENDORSEMENT_ECC_TEMPLATE)


def test_credentials_are_refused_for_other_keys_and_sizes() -> None:
    with pytest.raises(UnsupportedEvidenceError):
        make_credential(ec.generate_private_key(ec.SECP521R1()).public_key(), b"", b"secret")
    with pytest.raises(UnsupportedEvidenceError):
        make_credential(rsa.generate_private_key(65537, 1024).public_key(), b"", b"secret")
    for secret in (b"", bytes(33)):
        with pytest.raises(ValueError, match="1 to 32"):
            make_credential(ec.generate_private_key(ec.SECP256R1()).public_key(), b"", secret)


def test_the_endorsement_certificate_is_for_the_key_of_the_default_template() -> None:
    with running_swtpm(ek_certificate=True) as socket:
        transport = SocketTransport(str(socket))
        tpm = Tpm(transport)
        certificate = tpm.read_nv(ENDORSEMENT_RSA_CERTIFICATE)
        handle, public = tpm.create_primary(ENDORSEMENT, ENDORSEMENT_RSA_TEMPLATE)
        tpm.flush(handle)
        attester = TpmAttester(transport)
        bundle = decode_bundle(attester.quote(NONCE, PCRS))
        transport.close()
    assert read_certificate(certificate).public_key() == parse_public(public).key
    assert bundle.ek_certificate == certificate
    facts = examine_tpm(tpm_evidence(bundle.encode()), binding=None, at=datetime.now(UTC)).facts
    assert facts["ek_root"] is None
    assert facts["ak_hierarchy"] == "endorsement"
