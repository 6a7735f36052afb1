"""The measured bodies of Intel quotes: SGX enclave reports and TD reports."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag

from keep_attestation.byte_reader import ByteReader

ENCLAVE_REPORT_SIZE = 384
TD_REPORT_10_SIZE = 584
TD_REPORT_15_SIZE = 648


class EnclaveAttributes(IntFlag):
    """Low 64 bits of an enclave's ATTRIBUTES (Intel SDM volume 3D, table 35-3)."""

    INIT = 1 << 0
    DEBUG = 1 << 1
    MODE64BIT = 1 << 2
    PROVISION_KEY = 1 << 4
    EINITTOKEN_KEY = 1 << 5
    CET = 1 << 6
    KSS = 1 << 7


class TdAttributes(IntFlag):
    """TD_ATTRIBUTES (Intel TDX Module 1.5 ABI specification, section 3.4.1)."""

    DEBUG = 1 << 0
    LASS = 1 << 27
    SEPT_VE_DISABLE = 1 << 28
    MIGRATABLE = 1 << 29
    PKS = 1 << 30
    KEY_LOCKER = 1 << 31
    PERFMON = 1 << 63


@dataclass(frozen=True, slots=True)
class EnclaveReport:
    """REPORTBODY of an enclave (Intel SDM volume 3D, section 35.15)."""

    cpu_svn: bytes
    misc_select: int
    isv_ext_prod_id: bytes
    attributes: bytes
    mr_enclave: bytes
    mr_signer: bytes
    config_id: bytes
    isv_prod_id: int
    isv_svn: int
    config_svn: int
    isv_family_id: bytes
    report_data: bytes

    @property
    def flags(self) -> EnclaveAttributes:
        """Bits that are not known here are kept."""
        return EnclaveAttributes(int.from_bytes(self.attributes[:8], "little"))


@dataclass(frozen=True, slots=True)
class TdReport:
    """TDQUOTEBODY (Intel TDX DCAP Quote Generation Library, appendix 3), 1.0 or, with the last two fields, 1.5."""

    tee_tcb_svn: bytes
    mr_seam: bytes
    mr_signer_seam: bytes
    seam_attributes: bytes
    td_attributes: bytes
    xfam: bytes
    mr_td: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    rtmrs: tuple[bytes, bytes, bytes, bytes]
    report_data: bytes
    tee_tcb_svn2: bytes | None = None
    """Of the TDX module that runs now, when it was replaced after the TD's launch."""
    mr_service_td: bytes | None = None

    @property
    def flags(self) -> TdAttributes:
        """Bits that are not known here are kept."""
        return TdAttributes(int.from_bytes(self.td_attributes, "little"))


def parse_enclave_report(data: bytes) -> EnclaveReport:
    """The report in `data`, 384 bytes. Raises `MalformedEvidenceError`."""
    reader = ByteReader(data, "enclave report", "little")
    cpu_svn = reader.take(16)
    misc_select = reader.integer(4)
    reader.take(12)
    isv_ext_prod_id = reader.take(16)
    attributes = reader.take(16)
    mr_enclave = reader.take(32)
    reader.take(32)
    mr_signer = reader.take(32)
    reader.take(32)
    config_id = reader.take(64)
    isv_prod_id, isv_svn, config_svn = reader.integer(2), reader.integer(2), reader.integer(2)
    reader.take(42)
    isv_family_id = reader.take(16)
    report_data = reader.take(64)
    reader.end()
    return EnclaveReport(
        cpu_svn=cpu_svn,
        misc_select=misc_select,
        isv_ext_prod_id=isv_ext_prod_id,
        attributes=attributes,
        mr_enclave=mr_enclave,
        mr_signer=mr_signer,
        config_id=config_id,
        isv_prod_id=isv_prod_id,
        isv_svn=isv_svn,
        config_svn=config_svn,
        isv_family_id=isv_family_id,
        report_data=report_data,
    )


def parse_td_report(data: bytes) -> TdReport:
    """The report in `data`: 584 bytes (TDX 1.0) or 648 (TDX 1.5). Raises `MalformedEvidenceError`."""
    reader = ByteReader(data, "TD report", "little")
    take = reader.take
    report = TdReport(
        tee_tcb_svn=take(16),
        mr_seam=take(48),
        mr_signer_seam=take(48),
        seam_attributes=take(8),
        td_attributes=take(8),
        xfam=take(8),
        mr_td=take(48),
        mr_config_id=take(48),
        mr_owner=take(48),
        mr_owner_config=take(48),
        rtmrs=(take(48), take(48), take(48), take(48)),
        report_data=take(64),
        tee_tcb_svn2=take(16) if len(data) > TD_REPORT_10_SIZE else None,
        mr_service_td=take(48) if len(data) > TD_REPORT_10_SIZE else None,
    )
    reader.end()
    return report
