"""What SNP reports and endorsement keys say, as facts that policies judge and verdicts print."""

from __future__ import annotations

from typing import Any

from keep_attestation.snp.products import Processor, Product, TcbVersion, decode_tcb
from keep_attestation.snp.report import FirmwareVersion, GuestPolicyFlag, PlatformFlag, Report, SigningKey
from keep_attestation.snp.vek import Vek

TCB_NAMES = ("reported_tcb", "committed_tcb", "current_tcb", "launch_tcb")
"""Each is a fact in hex, as reported; with the product known also in parts, e.g. `reported_tcb_snp`."""


def report_facts(report: Report) -> dict[str, Any]:
    """The report's fields, named as in AMD's layout; flags of the guest policy by name, of the platform as
    `platform_<flag>`."""
    return {
        "version": report.version,
        "guest_svn": report.guest_svn,
        "policy": report.policy.value,
        "abi_major": report.policy.abi_major,
        "abi_minor": report.policy.abi_minor,
        **{_name(flag): flag in report.policy.flags for flag in GuestPolicyFlag},
        "family_id": report.family_id.hex(),
        "image_id": report.image_id.hex(),
        "vmpl": report.vmpl,
        "sig_algo": report.signature_algorithm,
        "platform_info": report.platform_info.value,
        **{f"platform_{_name(flag)}": flag in report.platform_info.flags for flag in PlatformFlag},
        "platform_unknown_bits": report.platform_info.unknown,
        "key_info": report.key_info.value,
        "author_key_en": report.key_info.author_key_en,
        "mask_chip_key": report.key_info.mask_chip_key,
        "signing_key": report.key_info.signing_key.value,
        "report_data": report.report_data.hex(),
        "measurement": report.measurement.hex(),
        "host_data": report.host_data.hex(),
        "id_key_digest": report.id_key_digest.hex(),
        "author_key_digest": report.author_key_digest.hex(),
        "report_id": report.report_id.hex(),
        "report_id_ma": report.report_id_ma.hex(),
        "cpuid": [report.cpuid.family, report.cpuid.model, report.cpuid.stepping],
        "chip_id": report.chip_id.hex(),
        "cur_ver": _version(report.current_version),
        "com_ver": _version(report.committed_version),
        "launch_mit": report.launch_mit_vector,
        "cur_mit": report.current_mit_vector,
        "revocation_checked": False,
        **(
            {}
            if report.key_info.signing_key is SigningKey.NONE
            else {"endorsement_key": report.key_info.signing_key.name}
        ),
        **{name: tcb.hex() for name, tcb in _raw_tcbs(report).items()},
    }


def product_facts(report: Report, product: Product, processor: Processor) -> dict[str, Any]:
    """The facts that need the product. Raises `MalformedEvidenceError` for a TCB that is not of it."""
    facts: dict[str, Any] = {"product": product.value, "processor": processor.value}
    for name, raw in _raw_tcbs(report).items():
        facts |= _tcb_parts(name, decode_tcb(raw, product))
    return facts


def vek_facts(vek: Vek) -> dict[str, Any]:
    facts = {"vek_product_name": vek.product_name}
    return facts if vek.csp_id is None else facts | {"csp_id": vek.csp_id}


def _raw_tcbs(report: Report) -> dict[str, bytes]:
    return {name: getattr(report, name) for name in TCB_NAMES}


def _tcb_parts(name: str, tcb: TcbVersion) -> dict[str, int]:
    parts = {"fmc": tcb.fmc, "bl": tcb.bl, "tee": tcb.tee, "snp": tcb.snp, "ucode": tcb.ucode}
    return {f"{name}_{part}": level for part, level in parts.items() if level is not None}


def _version(version: FirmwareVersion) -> list[int]:
    return [version.major, version.minor, version.build]


def _name(flag: GuestPolicyFlag | PlatformFlag) -> str:
    return str(flag.name).lower()
