"""Which fuzz target looks at which parser: everything in keep_attestation that makes something of bytes."""

from __future__ import annotations

from collections.abc import Mapping

PARSERS: Mapping[str, Mapping[str, str]] = {
    "azure.bundle": {"decode_azure_bundle": "azure_bundle"},
    "azure.hcl": {"parse_hcl_report": "azure_hcl"},
    "cbor": {"decode_cbor": "claims"},
    "certificates": {
        "read_certificate": "snp_vek",
        "read_certificates": "x509_certificate",
        "read_crl": "x509_certificate",
    },
    "claims": {"decode_claims": "claims"},
    "event_log.ccel_table": {"parse_ccel_table": "ccel_table"},
    "event_log.parser": {"parse_tcg_log": "event_log_tcg"},
    "evidence_files.pcr_values": {"read_pcr_values": "evidence_file"},
    "evidence_files.reading": {"read_evidence": "evidence_file"},
    "intel.collateral": {
        "decode_hex": "intel_collateral",
        "parse_collateral": "intel_collateral",
        "read_pem_chain": "intel_quote",
    },
    "intel.pck": {"parse_pck_extension": "intel_quote"},
    "intel.quote": {"parse_quote": "intel_quote"},
    "intel.reports": {"parse_enclave_report": "intel_quote", "parse_td_report": "intel_quote"},
    "key_release.cms": {"parse_enveloped_key": "cms_enveloped"},
    "key_release.jwe": {"parse_flattened_jwe": "cms_enveloped"},
    "nitro.document": {"parse_document": "nitro_document"},
    "policy": {"parse_policy": "policy_file"},
    "ratls.certificate": {"read_ratls": "ratls_certificate", "read_ratls_request": "ratls_request"},
    "ratls.cmw": {
        "decode_extension": "cmw_collection",
        "decode_cbor_wrapper": "cmw_collection",
        "decode_json_wrapper": "cmw_collection",
    },
    "ratls.collection": {"decode_collection": "cmw_collection", "decode_endorsements": "cmw_collection"},
    "simulated.evidence": {"parse_simulated": "simulated_evidence"},
    "snp.products": {"decode_tcb": "snp_evidence"},
    "snp.report": {"parse_report": "snp_report"},
    "snp.vek": {"read_vek": "snp_vek"},
    "tdx.dstack_log": {"parse_dstack_log": "event_log_dstack"},
    "tpm.bundle": {"decode_bundle": "tpm_bundle"},
    "tpm.quote": {"parse_quote": "changed_evidence"},
    "tpm.structures": {"parse_attest": "tpm_attest", "parse_signature": "tpm_signature", "parse_public": "tpm_public"},
}
"""By module, by function."""
