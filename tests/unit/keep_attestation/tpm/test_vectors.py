"""Whether real quotes verify as their expectations say, and no changed one does."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from keep_attestation.errors import MalformedEvidenceError
from keep_attestation.event_log.event import HashAlgorithm
from keep_attestation.evidence import Binding, Evidence
from keep_attestation.tpm.bundle import bundle_from_parts, decode_bundle
from keep_attestation.tpm.policy import TpmPolicy
from keep_attestation.tpm.quote import check_quote, parse_quote, quote_facts
from keep_attestation.tpm.structures import ObjectAttribute, SigningScheme, parse_attest, parse_signature
from keep_attestation.tpm.verifier import examine_tpm
from keep_attestation.verdict import Checks, Outcome
from tests.unit.keep_attestation.tpm.forge import tpm_evidence

AT = datetime(2026, 11, 21, tzinfo=UTC)


def folders(vectors: Path) -> list[tuple[Path, dict[str, Any]]]:
    found = [path.parent for path in sorted((vectors / "tpm").glob("*/quote.msg"))]
    assert found, "no vectors of TPM quotes"
    return [(folder, json.loads((folder / "expected.json").read_text())) for folder in found]


def optional(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def bank_of(expected: dict[str, Any]) -> HashAlgorithm:
    ((bank, _),) = expected["facts"]["pcr_selection"]
    return HashAlgorithm(int(bank, 16))


def values_of(folder: Path) -> dict[int, bytes]:
    return {int(pcr): bytes.fromhex(value) for pcr, value in json.loads((folder / "pcrs.json").read_text()).items()}


def with_ak(vectors: Path) -> list[tuple[dict[str, Any], Evidence]]:
    """Those whose attestation key is known with its attributes."""
    found = []
    for folder, expected in folders(vectors):
        ak = optional(folder / "ak_pub.tpmt")
        if ak is None:
            continue
        body = bundle_from_parts(
            (folder / "quote.msg").read_bytes(),
            (folder / "quote.sig").read_bytes(),
            ak,
            {bank_of(expected): values_of(folder)},
            ak_certificate=optional(folder / "ak_cert.der"),
            ek_certificate=optional(folder / "ek_cert.der"),
        )
        certificates = tuple(path.read_bytes() for path in sorted(folder.glob("ca_*")))
        log = optional(folder / "event_log.bin")
        found.append((expected, tpm_evidence(body, certificates=certificates, log=log)))
    assert found, "no vectors of TPM quotes with their keys"
    return found


def passes(evidence: Evidence, binding: Binding | None = None) -> bool:
    try:
        checks = examine_tpm(evidence, binding=binding, at=AT).checks
    except MalformedEvidenceError:
        return False
    return all(check.outcome is not Outcome.FAIL for check in checks)


def test_quotes_and_signatures_read_as_expected(vectors: Path) -> None:
    for folder, expected in folders(vectors):
        attest = parse_attest((folder / "quote.msg").read_bytes())
        signature = parse_signature((folder / "quote.sig").read_bytes())
        facts = expected["facts"]
        assert attest.extra_data.hex() == facts["nonce"]
        assert signature.scheme == int(facts["sig_alg"], 16)
        assert signature.hash == int(facts["sig_hash"], 16)
        assert [[f"{bank:#x}", list(registers)] for bank, registers in attest.selection.items()] == facts[
            "pcr_selection"
        ]
        assert attest.pcr_digest.hex() == facts["pcr_digest"]
        assert attest.qualified_signer.hex() == facts["qualified_signer"]
        assert attest.safe == facts["safe"]
        assert attest.reset_count == facts["reset_count"]
        assert attest.clock == facts.get("clock", attest.clock)
        assert attest.restart_count == facts.get("restart_count", attest.restart_count)
        assert f"{attest.firmware:#x}" == facts.get("firmware", f"{attest.firmware:#x}")


def test_quotes_of_which_the_key_is_known_verify_with_their_log(vectors: Path) -> None:
    for expected, evidence in with_ak(vectors):
        binding = Binding(qualifying_data=bytes.fromhex(expected["facts"]["nonce"]))
        examination = examine_tpm(evidence, binding=binding, at=AT)
        failed = [check for check in examination.checks if check.outcome is Outcome.FAIL]
        assert not failed, expected["name"]
        assert examination.facts["ak_name"] == expected["facts"]["ak_name"]
        assert examination.facts["ak_attributes"] == expected["facts"]["ak_attributes"]
        assert examination.facts["log_replayed"] is (evidence.log is not None)
        other = Binding(qualifying_data=b"another nonce")
        assert not passes(evidence, other), expected["name"]


def test_quotes_by_bare_keys_verify(vectors: Path) -> None:
    for folder, expected in folders(vectors):
        bare = optional(folder / "ak_pub.der")
        if bare is None:
            continue
        key = load_der_public_key(bare)
        assert isinstance(key, rsa.RSAPublicKey)
        values = {bank_of(expected): values_of(folder)}
        quote = parse_quote((folder / "quote.msg").read_bytes(), (folder / "quote.sig").read_bytes(), values)
        checks = Checks()
        assert check_quote(checks, quote, key, SigningScheme.RSASSA, HashAlgorithm.SHA256, "tpm"), expected["name"]
        assert quote_facts(quote)["nonce"] == expected["facts"]["nonce"]


def test_the_default_policy_takes_google_s_machines_and_refuses_emulators(vectors: Path) -> None:
    for expected, evidence in with_ak(vectors):
        facts = examine_tpm(evidence, binding=None, at=AT).facts
        certified = decode_bundle(evidence.body).ak_certificate is not None
        bank, registers = next(iter(facts["pcrs"].items()))
        references = {} if bank == "sha1" else {bank: {pcr: (value,) for pcr, value in registers.items()}}
        rules = TpmPolicy(pcrs=references).rules()
        failed = {check.name for rule in rules if (check := rule.check(facts)).outcome is Outcome.FAIL}
        assert ("tpm.trust" in failed) is not certified, expected["name"]
        assert ("tpm.pcrs" in failed) is (bank == "sha1"), expected["name"]
        if expected["verify"].get("default_policy", "").startswith("refuse"):
            pinned = TpmPolicy(pcrs=references, ak_names=(facts["ak_name"],)).rules()
            assert any(rule.check(facts).outcome is Outcome.FAIL for rule in pinned), expected["name"]


def test_a_flipped_byte_in_quote_signature_or_key_is_refused(vectors: Path) -> None:
    for expected, evidence in with_ak(vectors):
        bundle = decode_bundle(evidence.body)
        signed_parts = len(bundle.quote) + len(bundle.signature) + len(bundle.ak)
        assert passes(evidence)
        for offset in range(0, signed_parts + 8, 5):
            body = bytearray(evidence.body)
            body[offset] ^= 0x01
            flipped = tpm_evidence(bytes(body), certificates=evidence.endorsements.certificates)
            # A flipped attribute of a key without certificate is another key's name: the policy does not know it.
            named = expected["facts"]["ak_name"]
            assert not passes(flipped) or name_of(flipped) != named, f"{expected['name']}: byte {offset}"


def test_changed_attributes_beside_a_certified_key_are_refused_by_the_policy(vectors: Path) -> None:
    for expected, evidence in with_ak(vectors):
        bundle = decode_bundle(evidence.body)
        if bundle.ak_certificate is None:
            continue
        attributes = int.from_bytes(bundle.ak[4:8], "big") ^ ObjectAttribute.NO_DICTIONARY_ATTACK
        ak = bundle.ak[:4] + attributes.to_bytes(4, "big") + bundle.ak[8:]
        for key, failed in ((bundle.ak, False), (ak, True)):
            body = replace(bundle, ak=key).encode()
            changed = tpm_evidence(body, certificates=evidence.endorsements.certificates)
            facts = examine_tpm(changed, binding=None, at=AT).facts
            outcomes = {
                check.name for rule in TpmPolicy().rules() if (check := rule.check(facts)).outcome is Outcome.FAIL
            }
            assert ("tpm.trust" in outcomes) is failed, expected["name"]


def name_of(evidence: Evidence) -> object:
    return examine_tpm(evidence, binding=None, at=AT).facts["ak_name"]


def test_cut_and_extended_bundles_are_refused(vectors: Path) -> None:
    for expected, evidence in with_ak(vectors):
        for length in range(0, len(evidence.body), 31):
            assert not passes(tpm_evidence(evidence.body[:length])), expected["name"]
        assert not passes(tpm_evidence(evidence.body + b"\x00")), expected["name"]


def test_another_machine_s_log_is_refused(vectors: Path) -> None:
    logs = [(folder, log) for folder, _ in folders(vectors) if (log := optional(folder / "event_log.bin"))]
    for _, evidence in with_ak(vectors):
        if evidence.log is None:
            continue
        # The last event's digest changed, not its data: replay alone finds it.
        for _, log in logs[:1]:
            position = log.rindex(b"\x0b\x00") + 4
            changed = log[:position] + bytes([log[position] ^ 1]) + log[position + 1 :]
            certificates = evidence.endorsements.certificates
            outcome = passes(tpm_evidence(evidence.body, certificates=certificates, log=changed))
            bank = next(iter(decode_bundle(evidence.body).pcrs))
            assert outcome is (bank is HashAlgorithm.SHA1)
