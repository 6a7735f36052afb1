"""What may go wrong with a machine or be done to it, and for each the tests that fail where it is not answered."""

from __future__ import annotations

import pytest

from tests.named_tests import missing

LOADER = "unit/keep_loader/machine"
MEASURED = "unit/keep_client/test_measured_machines.py"

FAULTS: dict[str, tuple[str, ...]] = {
    "a file of the image changed by one byte": (
        "unit/keep_manager/machines/test_guest_image.py::test_an_image_with_one_byte_changed_is_refused",
        "system/test_machines.py::test_an_image_that_was_tampered_with_starts_nothing",
        "system/test_machine_disks.py::test_a_measured_machine_opens_its_state_by_its_own_tpm_and_image_alone",
    ),
    "another command line of the kernel": (
        "system/test_machines.py::test_a_measured_machine_is_refused_where_it_was_started_otherwise_than_predicted",
        "unit/app_loader/sealing/test_tpm_key.py::test_a_virtual_machine_of_another_image_or_spec_does_not_get_the_key",
    ),
    "more memory than predicted": (
        "system/test_machines.py::test_a_measured_machine_is_refused_where_it_was_started_otherwise_than_predicted",
        "unit/keep_image/test_boot_measurement.py::test_memory_counts_only_where_qemu_writes_it_into_the_kernel",
    ),
    "another spec than the owner's": (
        "unit/keep_guest/test_binding.py::test_a_machine_serves_the_spec_that_it_was_launched_for_alone",
        f"{MEASURED}::test_another_keeps_machine_is_refused_by_its_spec_whatever_its_tpm",
    ),
    "the state of another TPM": (
        f"{MEASURED}::test_a_machine_whose_tpm_has_been_swapped_for_anothers_is_refused_by_it",
        "unit/app_loader/sealing/test_tpm_key.py::test_another_tpm_and_another_keep_have_other_keys",
        "system/test_machine_disks.py::test_a_measured_machine_opens_its_state_by_its_own_tpm_and_image_alone",
    ),
    "a replayed log of a boot": (
        f"{MEASURED}::test_the_log_of_an_honest_boot_beside_another_boots_registers_is_refused",
        f"{MEASURED}::test_an_honest_boot_replayed_into_registers_that_have_measured_another_is_refused",
        "unit/keep_attestation/tpm/test_vectors.py::test_another_machine_s_log_is_refused",
    ),
    "the evidence of another machine": (
        f"{MEASURED}::test_another_machine_of_the_same_image_and_spec_is_refused_by_its_tpm",
        f"{MEASURED}::test_a_certificate_with_the_evidence_of_another_running_machine_is_refused_for_its_key",
        f"{MEASURED}::test_fresh_evidence_of_another_running_machine_is_refused_for_its_key",
    ),
    "the host in the guest's place": (
        f"{MEASURED}::test_a_program_of_the_host_in_the_guests_place_is_refused_for_want_of_a_measured_boot",
        "unit/keep_client/test_attested_relay.py::test_with_the_keeps_key_it_gets_the_challenge_and_nothing_else",
    ),
    "a host that reads along": ("system/test_machine_channel.py::test_the_host_carries_ciphertext_byte_for_byte",),
    "a channel that stalls": (
        f"{LOADER}/test_multiplexed.py::test_a_guest_that_takes_nothing_stops_the_sender_and_nothing_is_hoarded",
        f"{LOADER}/test_multiplexed.py::test_a_connection_that_nobody_reads_does_not_stop_the_others",
        "unit/keep_guest/test_data_channel.py::test_a_host_that_takes_nothing_stops_the_app_loader",
        "system/test_machine_channel.py::test_clients_that_stall_hold_up_nobody_and_fill_no_memory",
    ),
    "a channel that tears": (
        f"{LOADER}/test_multiplexed.py::test_a_channel_that_tears_breaks_its_connections",
        "unit/keep_guest/test_data_channel.py::test_a_host_that_goes_ends_every_connection_without_spinning",
        "unit/keep_guest/test_data_channel.py::test_a_host_that_goes_within_a_frame_may_begin_anew",
        f"{LOADER}/test_running.py::test_a_vsock_device_that_dies_ends_its_machine_and_is_named",
    ),
    "a channel that floods": (
        f"{LOADER}/test_multiplexed.py::test_a_guest_that_floods_is_given_up_before_it_fills_memory",
        "unit/keep_guest/test_data_channel.py"
        "::test_a_host_that_does_not_wait_for_credit_is_given_up_before_it_fills_memory",
        f"{LOADER}/test_console.py::test_what_a_guest_floods_it_with_does_not_grow_it",
        "system/test_machine_channel.py"
        "::test_a_workload_that_floods_its_output_ends_at_its_limit_and_others_are_served",
    ),
    "a channel with garbage": (
        f"{LOADER}/test_multiplexed.py::test_a_guest_that_sends_no_frames_ends_the_channel",
        f"{LOADER}/test_control.py::test_a_guest_that_makes_no_sense_ends_its_keep",
        "unit/keep_guest/test_data_channel.py"
        "::test_a_host_that_breaks_the_framing_ends_every_connection_and_may_begin_anew",
        "unit/keep_guest/test_control.py::test_a_host_that_talks_rubbish_is_refused",
    ),
    "a guest that fills its memory": (
        "system/test_main_job.py::test_the_reason_of_the_end_is_told_by_the_exit_status",
        "system/test_machine_faults.py::test_a_machine_that_the_host_has_no_memory_for_says_so",
    ),
    "a guest that fills its disk": (
        "system/test_main_job.py::test_a_guest_that_fills_the_files_of_its_keep_is_stopped_at_their_limit",
        "unit/app_loader/test_disk_usage.py::test_open_files_without_a_name_are_counted",
    ),
    "a guest that wants very much randomness": (
        "system/test_main_job.py::test_a_guest_that_asks_for_very_much_randomness_is_given_it",
        f"{LOADER}/test_command_line.py::test_a_guest_that_asks_for_endless_randomness_is_given_so_much_a_second",
    ),
    "a host whose disk is full": (
        "system/test_machine_faults.py"
        "::test_a_machine_on_a_full_disk_says_so_and_goes_on_and_has_its_files_when_there_is_room_again",
        f"{LOADER}/test_monitor.py::test_a_disk_of_the_hosts_that_takes_nothing_is_told_once",
    ),
    "a QEMU that is missing": (
        "unit/keep_manager/test_machine_refusals.py"
        "::test_a_machine_that_this_qemu_cannot_make_is_refused_with_the_remedy_and_leaves_nothing",
        f"{LOADER}/test_running.py::test_a_qemu_that_is_missing_is_named",
    ),
    "a QEMU that is too old": (
        "unit/keep_manager/test_machine_refusals.py"
        "::test_a_machine_that_this_qemu_cannot_make_is_refused_with_the_remedy_and_leaves_nothing",
        "unit/keep_manager/machines/test_checks.py::test_a_qemu_that_is_too_old_is_told_what_is_new_enough",
    ),
    "a QEMU without the feature": (
        "unit/keep_manager/test_machine_refusals.py"
        "::test_a_machine_that_this_qemu_cannot_make_is_refused_with_the_remedy_and_leaves_nothing",
        "unit/keep_manager/machines/test_checks.py::test_a_qemu_without_the_object_is_told",
    ),
    "two keeps on one disk": (
        f"{LOADER}/test_disk.py::test_two_machines_never_have_one_disk",
        f"{LOADER}/test_running.py"
        "::test_a_second_machine_on_the_disk_of_one_that_runs_is_refused_and_the_first_goes_on",
    ),
    "a host that loses power in the middle of a write": (
        "system/test_machine_power_cut.py"
        "::test_what_was_acknowledged_survives_a_power_cut_and_what_was_not_is_whole_or_not_there",
        f"{LOADER}/test_disk.py::test_what_an_interrupted_attempt_left_is_made_anew",
    ),
    "a QEMU that dies": (
        "system/test_machines.py::test_a_machine_runs_a_workload_dies_and_comes_back_at_its_endpoint_with_its_state",
        f"{LOADER}/test_running.py::test_a_qemu_that_is_killed_is_told_from_one_that_crashed",
    ),
    "a TPM that dies": (f"{LOADER}/test_running.py::test_a_machine_whose_tpm_is_killed_ends_and_names_it",),
    "a template that is damaged or of something else": (
        "unit/keep_manager/machines/test_templates.py::test_a_template_with_a_changed_byte_is_not_used",
        "unit/keep_manager/machines/test_templates.py::test_a_template_of_another_image_is_not_used",
        "unit/keep_manager/machines/test_templates.py::test_a_template_of_another_qemu_is_not_used",
        f"{LOADER}/test_starting.py::test_a_template_of_another_qemu_is_not_tried",
        "system/test_machine_clones.py::test_clones_of_a_template_are_keeps_of_their_own",
    ),
    "a clone that does not come to life": (
        f"{LOADER}/test_starting.py::test_a_clone_that_does_not_come_to_life_is_started_from_the_image_and_says_why",
    ),
    "a keep that writes to the template of others": (
        "unit/keep_manager/machines/test_templates.py::test_nobody_who_has_a_template_can_change_it",
    ),
    "a kernel that panics": (
        "system/test_machine_faults.py::test_a_guest_whose_kernel_panics_ends_with_its_last_words",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_has_its_tests(fault: str) -> None:
    assert missing(FAULTS[fault]) == []


def test_the_table_is_whole() -> None:
    assert len(FAULTS) == 28
