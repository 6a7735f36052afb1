"""The layout of attestation reports."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keep_attestation.errors import MalformedEvidenceError, UnsupportedEvidenceError
from keep_attestation.snp.products import Processor, Product, TcbVersion, decode_tcb, processor_of
from keep_attestation.snp.report import (
    REPORT_SIZE,
    CpuId,
    GuestPolicyFlag,
    PlatformFlag,
    SigningKey,
    parse_report,
)
from tests.unit.keep_attestation.snp.forge import change, encode_tcb, fake_amd

REPORT = fake_amd().vcek().report()

RESERVED = {
    "reserved_4c": 0x4C,
    "reserved_18b": 0x18B,
    "reserved_1eb": 0x1EB,
    "reserved_1ef": 0x1EF,
    "reserved_208": 0x208,
    "padding of R": 0x2A0 + 48,
    "padding of S": 0x2E8 + 48,
    "reserved_330": 0x330,
    "last byte": REPORT_SIZE - 1,
}


@pytest.mark.parametrize("offset", RESERVED.values(), ids=RESERVED)
def test_reserved_bytes_that_are_not_zero_are_malformed(offset: int) -> None:
    changed = bytearray(REPORT)
    changed[offset] = 1
    with pytest.raises(MalformedEvidenceError, match="not zero"):
        parse_report(bytes(changed))


@pytest.mark.parametrize("version", [2, 3, 4])
def test_mitigation_vectors_before_version_5_are_malformed(version: int) -> None:
    cpuid = bytes(3) if version == 2 else b"\x19\x01\x01"
    with pytest.raises(MalformedEvidenceError, match="0x1f8"):
        parse_report(change(REPORT, version=version, cpuid=cpuid, cur_mit=1))


def test_a_cpuid_in_version_2_is_malformed() -> None:
    with pytest.raises(MalformedEvidenceError, match="0x188"):
        parse_report(change(REPORT, version=2))


@pytest.mark.parametrize("version", [0, 1, 6, 0xA3, 0xFFFFFFFF])
def test_unknown_versions_are_refused_by_name(version: int) -> None:
    with pytest.raises(UnsupportedEvidenceError, match=f"version {version} "):
        parse_report(change(REPORT, version=version))


@pytest.mark.parametrize("algorithm", [0, 2, 0x101])
def test_other_signature_algorithms_are_refused_by_name(algorithm: int) -> None:
    with pytest.raises(UnsupportedEvidenceError, match=f"algorithm {algorithm} "):
        parse_report(change(REPORT, sig_algo=algorithm))


@pytest.mark.parametrize("policy", [0x10000, 0x30000 | 1 << 26, 0x30000 | 1 << 63])
def test_guest_policies_with_wrong_reserved_bits_are_malformed(policy: int) -> None:
    with pytest.raises(MalformedEvidenceError, match="guest policy"):
        parse_report(change(REPORT, policy=policy))


@pytest.mark.parametrize("key_info", [1 << 5, 1 << 31])
def test_reserved_bits_in_key_info_are_malformed(key_info: int) -> None:
    with pytest.raises(MalformedEvidenceError, match="key info"):
        parse_report(change(REPORT, key_info=key_info))


@pytest.mark.parametrize("signing_key", [2, 3, 4, 5, 6])
def test_unknown_signing_keys_are_refused_by_name(signing_key: int) -> None:
    with pytest.raises(UnsupportedEvidenceError, match=f"signing key {signing_key} "):
        parse_report(change(REPORT, key_info=signing_key << 2))


@pytest.mark.parametrize("vmpl", [4, 0x80000000, 0xFFFFFFFE])
def test_levels_that_do_not_exist_are_malformed(vmpl: int) -> None:
    with pytest.raises(MalformedEvidenceError, match="VMPL"):
        parse_report(change(REPORT, vmpl=vmpl))


def test_unknown_platform_bits_are_reported_and_not_refused() -> None:
    platform = parse_report(change(REPORT, platform_info=0x67 | 1 << 40)).platform_info
    assert platform.unknown == 1 << 6 | 1 << 40
    assert platform.flags == PlatformFlag.SMT | PlatformFlag.TSME | PlatformFlag.ECC | PlatformFlag.ALIAS_CHECK_COMPLETE


def test_the_guest_policy_is_taken_apart() -> None:
    policy = parse_report(change(REPORT, policy=0x30133 | GuestPolicyFlag.DEBUG)).policy
    assert (policy.abi_major, policy.abi_minor) == (1, 0x33)
    assert policy.flags == GuestPolicyFlag.SMT | GuestPolicyFlag.DEBUG


def test_version_5_has_mitigation_vectors_and_firmware_versions() -> None:
    report = parse_report(change(REPORT, version=5, launch_mit=3, cur_mit=7, current_version=bytes([61, 56, 1])))
    assert (report.launch_mit_vector, report.current_mit_vector) == (3, 7)
    assert (str(report.current_version), str(report.committed_version)) == ("1.56.61", "1.55.29")


def test_a_vlek_is_named_by_key_info() -> None:
    assert parse_report(fake_amd().vlek().report()).key_info.signing_key is SigningKey.VLEK


@pytest.mark.parametrize(
    ("family", "model", "processor"),
    [
        (0x19, 0x01, Processor.MILAN),
        (0x19, 0x11, Processor.GENOA),
        (0x19, 0xA0, Processor.BERGAMO_SIENA),
        (0x1A, 0x02, Processor.TURIN),
        (0x1A, 0x11, Processor.TURIN),
    ],
)
def test_processors_are_known_by_family_and_model(family: int, model: int, processor: Processor) -> None:
    assert processor_of(CpuId(family, model, 0)) is processor


@pytest.mark.parametrize(("family", "model"), [(0, 0), (0x17, 0x31), (0x19, 0x20), (0x19, 0xB0), (0x1A, 0x50)])
def test_unknown_processors_are_refused_by_name(family: int, model: int) -> None:
    with pytest.raises(UnsupportedEvidenceError, match=f"{family:#x} model {model:#x}"):
        processor_of(CpuId(family, model, 0))


def test_turin_lays_out_its_tcb_in_another_way() -> None:
    raw = bytes.fromhex("0001020300000047")
    assert decode_tcb(raw, Product.TURIN) == TcbVersion(fmc=0, bl=1, tee=2, snp=3, ucode=0x47)
    with pytest.raises(MalformedEvidenceError, match="Milan"):
        decode_tcb(raw, Product.MILAN)
    with pytest.raises(MalformedEvidenceError, match="Turin"):
        decode_tcb(encode_tcb(TcbVersion(bl=4, tee=0, snp=0x18, ucode=0xDB)), Product.TURIN)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=64),
        st.binary(min_size=REPORT_SIZE, max_size=REPORT_SIZE),
        st.lists(st.tuples(st.integers(0, REPORT_SIZE - 1), st.integers(0, 255)), max_size=8).map(
            lambda edits: _edited(REPORT, edits)
        ),
    )
)
def test_no_bytes_raise_anything_but_our_error(data: bytes) -> None:
    try:
        report = parse_report(data)
    except MalformedEvidenceError:
        return
    assert len(data) == REPORT_SIZE
    assert data.startswith(report.signed)


def _edited(data: bytes, edits: list[tuple[int, int]]) -> bytes:
    changed = bytearray(data)
    for offset, value in edits:
        changed[offset] = value
    return bytes(changed)
