"""Known attacks on verifiers of evidence, and for each the tests that fail where its check is missing."""

from __future__ import annotations

import pytest

from tests.named_tests import missing

HERE = "unit/keep_attestation"

ATTACKS: dict[str, tuple[str, ...]] = {
    "a QE identity that nobody verified (CVE-2026-22696)": (
        f"{HERE}/intel/test_collateral.py::test_a_qe_identity_that_intel_did_not_sign_is_refused",
        f"{HERE}/intel/test_collateral.py::test_a_quoting_enclave_of_another_signer_is_refused",
    ),
    "a TCB level with too few components (GHSA-6q6c-vvf9-fj3w)": (
        f"{HERE}/intel/test_collateral.py::test_a_tcb_level_with_fewer_than_16_components_is_refused",
    ),
    "relay: evidence of a key and not of the session (CVE-2026-33697)": (
        f"{HERE}/ratls/test_peer.py::test_evidence_of_another_connection_of_the_same_keep_is_refused",
        "unit/keep_client/test_attested_relay.py::test_with_the_keeps_key_it_gets_the_challenge_and_nothing_else",
    ),
    "a captured certificate with another key": (
        "unit/keep_client/test_attested_relay.py"
        "::test_without_the_keeps_key_it_cannot_finish_a_handshake_with_a_copied_certificate",
    ),
    "a constant or repeated nonce (CVE-2026-6420)": (
        f"{HERE}/ratls/test_peer.py::test_a_constant_nonce_is_an_error_of_the_caller",
        f"{HERE}/ratls/test_peer.py::test_no_two_challenges_have_the_same_nonce",
        f"{HERE}/ratls/test_peer.py::test_an_answer_to_another_challenge_is_refused",
    ),
    "no nonce at all": (f"{HERE}/ratls/test_peer.py::test_evidence_without_a_nonce_is_refused_as_an_answer",),
    "a TCB taken from the report": (
        f"{HERE}/snp/test_verifier.py::test_a_report_that_claims_another_tcb_than_its_keys_is_refused",
    ),
    "a guest policy that allows debugging, or another VMPL": (
        f"{HERE}/snp/test_policy.py::test_debug_is_refused_unless_allowed_by_name",
        f"{HERE}/snp/test_policy.py::test_less_privileged_levels_are_refused_unless_allowed",
    ),
    "a report that the host asked for": (
        f"{HERE}/snp/test_verifier.py::test_a_report_that_the_host_asked_for_is_refused",
        f"{HERE}/snp/test_policy.py::test_no_policy_accepts_a_report_that_the_host_asked_for",
    ),
    "an endorsement key out of its time, of another chip, or revoked above": (
        f"{HERE}/snp/test_verifier.py::test_an_expired_key_is_refused_with_the_dates",
        f"{HERE}/snp/test_verifier.py::test_a_report_of_another_chip_is_refused",
        f"{HERE}/snp/test_verifier.py::test_a_revoked_intermediate_is_refused",
    ),
    "vulnerable microcode (AMD-SB-3019)": (
        f"{HERE}/snp/test_policy.py::test_firmware_below_the_recommended_levels_is_refused_by_them",
    ),
    "Milan's extractable seed": (f"{HERE}/snp/test_policy.py::test_milan_is_refused_without_a_list_of_chips",),
    "aliased memory (BadRAM)": (f"{HERE}/snp/test_policy.py::test_the_recommended_platform_flags_can_be_demanded",),
    "keys taken out by an interposer (TEE.fail)": (
        f"{HERE}/snp/test_policy.py::test_a_list_of_chips_refuses_others_of_every_product",
        f"{HERE}/tdx/test_policy.py::test_platforms_and_processor_families_are_accepted_by_name",
    ),
    "a migration agent": (f"{HERE}/snp/test_policy.py::test_a_migration_agent_is_refused",),
    "VLEK and VCEK confused": (
        f"{HERE}/snp/test_verifier.py::test_a_report_that_names_a_vlek_is_not_taken_with_a_vcek",
        f"{HERE}/snp/test_verifier.py::test_a_masked_chip_id_is_no_chip",
        f"{HERE}/snp/test_policy.py::test_a_vlek_is_refused_unless_its_provider_is_named",
    ),
    "another chain": (
        f"{HERE}/snp/test_verifier.py::test_a_self_made_root_of_the_same_name_is_refused_by_default",
        f"{HERE}/snp/test_verifier.py::test_an_intermediate_cannot_stand_for_the_root",
        f"{HERE}/intel/test_verification.py::test_a_root_of_the_same_name_with_another_key_is_refused",
        f"{HERE}/nitro/test_verifier.py::test_a_root_of_the_same_name_that_is_not_aws_s_is_refused",
    ),
    "a revoked intermediate, a stale CRL": (
        f"{HERE}/snp/test_verifier.py::test_crls_that_prove_nothing_are_refused",
        f"{HERE}/intel/test_collateral.py::test_a_crl_without_next_update_is_refused",
    ),
    "confused algorithms": (
        f"{HERE}/nitro/test_document.py::test_another_algorithm_is_refused_by_its_header",
        f"{HERE}/tpm/test_verifier.py::test_a_signature_of_another_scheme_or_hash_than_the_key_s_is_refused",
        f"{HERE}/snp/test_verifier.py::test_a_key_on_another_curve_signs_nothing",
    ),
    "a PCR value that the quote does not cover (CVE-2022-0317)": (
        f"{HERE}/tpm/test_verifier.py::test_a_value_that_the_quote_does_not_cover_is_refused",
    ),
    "an attestation key that signs what its holder likes": (
        f"{HERE}/tpm/test_verifier.py::test_a_key_that_can_sign_what_no_tpm_wrote_is_refused",
    ),
    "a failed keep that is silently well again": (
        "unit/keep_client/test_watch.py::test_it_fails_for_good_when_it_fails_more_often_than_is_allowed",
    ),
    "configuration that nothing measures": (
        f"{HERE}/ratls/test_peer.py::test_an_honest_keep_with_other_claims_is_refused",
    ),
    "collisions by concatenation": (
        f"{HERE}/ratls/test_peer.py::test_a_report_made_for_another_protocol_is_refused",
        f"{HERE}/tpm/test_verifier.py::test_values_of_other_sizes_whose_concatenation_is_the_same_are_refused",
    ),
    "an envelope's header that nothing authenticates": (
        "unit/app_loader/sealing/test_envelope.py::test_what_is_written_on_an_envelope_cannot_be_changed",
        "unit/app_loader/sealing/test_envelope.py::test_headers_cannot_be_swapped",
    ),
    "debug enclaves": (
        f"{HERE}/nitro/test_policy.py::test_a_debug_enclave_is_refused_unless_the_policy_says_otherwise",
        f"{HERE}/tdx/test_policy.py::test_debug_is_refused_by_every_policy",
        f"{HERE}/sgx/test_policy.py::test_debug_configuration_and_provisioning_key_are_refused_by_default",
    ),
    "a stale Nitro document": (
        f"{HERE}/nitro/test_verifier.py::test_a_stale_document_is_refused_with_the_dates_of_its_leaf",
    ),
    "unsigned bytes and mirrored signatures as identity": (
        f"{HERE}/snp/test_verifier.py::test_identity_is_of_the_signed_bytes_alone",
        f"{HERE}/intel/test_verification.py::test_a_mirrored_signature_is_still_the_same_quote",
    ),
    "malformed CBOR and DER": (
        f"{HERE}/test_cbor.py::test_a_key_may_not_come_twice",
        f"{HERE}/test_cbor.py::test_nesting_is_bounded",
        f"{HERE}/ratls/test_conventions.py::test_a_duplicate_extension_is_refused",
        f"{HERE}/test_der.py::test_other_forms_of_length_and_rests_are_refused",
    ),
    "simulated evidence in production, a weaker kind, no policy": (
        f"{HERE}/ratls/test_peer.py::test_a_production_policy_refuses_a_simulated_keep_before_its_evidence_is_parsed",
        f"{HERE}/test_policy.py::test_a_kind_that_is_not_listed_is_refused_with_what_is",
    ),
    "a log that was not replayed": (
        f"{HERE}/tdx/test_logs.py::test_a_log_that_lacks_adds_or_changes_an_event_is_refused",
        f"{HERE}/tpm/test_verifier.py::test_a_boot_log_must_replay_to_the_quoted_registers",
    ),
    "the attacker's own, older collateral": (
        f"{HERE}/tdx/test_policy.py::test_collateral_older_than_the_policy_s_knowledge_is_refused",
    ),
    "a remembered verdict for something else": (
        f"{HERE}/ratls/test_verdict_cache.py"
        "::test_a_remembered_verdict_is_never_used_for_another_key_policy_or_collateral",
    ),
    "report data compared by a prefix": (
        f"{HERE}/snp/test_verifier.py::test_all_64_bytes_of_report_data_are_compared",
        f"{HERE}/intel/test_verification.py::test_any_other_report_data_is_refused_also_one_that_agrees_at_first",
    ),
    "a clock that was set back": (
        f"{HERE}/test_trusted_time.py::test_a_clock_before_the_newest_collateral_accepted_is_refused_with_both_dates",
        "unit/keep_client/test_attested_refusals.py::test_a_clock_that_was_set_back_judges_no_keep",
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_known_attack_has_its_tests(attack: str) -> None:
    assert missing(ATTACKS[attack]) == []


def test_the_table_is_whole() -> None:
    assert len(ATTACKS) == 35
