"""What a policy may demand of Intel SGX evidence."""

from __future__ import annotations

from keep_attestation.intel.policy import PlatformPolicy, check_hex, lower
from keep_attestation.rules import AllOf, AnyOf, AtLeast, Equals, OneOf, Rule
from keep_protocol.evidence import EvidenceKind

_ZERO = ("00" * 64,)


class SgxPolicy(PlatformPolicy, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The `[sgx]` table: enclaves by measurement, or by signer, product and version. Neither refuses everything."""

    mr_enclaves: tuple[str, ...] = ()
    """Enclaves that are accepted (MRENCLAVE, 64 hex digits)."""
    mr_signers: tuple[str, ...] = ()
    """Signers whose enclaves are accepted (MRSIGNER, 64 hex digits) with the next two fields."""
    isv_prod_id: int | None = None
    """The signer's number of the product; needed with `mr_signers`: a signer may sign test enclaves too."""
    minimum_isv_svn: int | None = None
    """The oldest security version; needed with `mr_signers`: else every old, vulnerable enclave passes."""
    config_ids: tuple[str, ...] = _ZERO
    """Configuration that the host gave (CONFIGID, 128 hex digits); zero unless named."""
    allow_provision_key: bool = False
    """Whether the enclave may have the provisioning key, which identifies the platform."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_hex("mr_enclaves", self.mr_enclaves, 32)
        check_hex("mr_signers", self.mr_signers, 32)
        check_hex("config_ids", self.config_ids, 64)
        if self.mr_signers and (self.isv_prod_id is None or self.minimum_isv_svn is None):
            raise ValueError("mr_signers: name isv_prod_id and minimum_isv_svn too; a signer signs many enclaves")

    def rules(self) -> tuple[Rule, ...]:
        rules: list[Rule] = [
            self._measurement_rule(),
            Equals("debug", False, "sgx.debug", "the host reads and writes the memory of a debug enclave"),
            OneOf("config_id", lower(self.config_ids), "sgx.config_id"),
        ]
        if not self.allow_provision_key:
            rules.append(Equals("provision_key", False, "sgx.provision_key", "the policy does not allow it"))
        return (*rules, *self.platform_rules(EvidenceKind.SGX))

    def _measurement_rule(self) -> Rule:
        by_measurement = OneOf("mr_enclave", lower(self.mr_enclaves), "sgx.mr_enclave")
        if not self.mr_signers or self.isv_prod_id is None or self.minimum_isv_svn is None:
            return by_measurement
        by_signer = AllOf(
            (
                OneOf("mr_signer", lower(self.mr_signers), "sgx.mr_signer"),
                Equals("isv_prod_id", self.isv_prod_id, "sgx.isv_prod_id", "it is another product of the signer"),
                AtLeast("isv_svn", self.minimum_isv_svn, "sgx.isv_svn"),
            ),
            "sgx.mr_signer",
        )
        return AnyOf((by_measurement, by_signer), "sgx.enclave") if self.mr_enclaves else by_signer
