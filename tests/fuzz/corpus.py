"""What fuzzing starts from: good artefacts of every format, made here, and real ones where there are any."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import pkcs7

from app_loader.attesters.simulated import attest
from app_loader.sealing.envelope import seal
from keep_attestation.event_log import EventType, HashAlgorithm
from keep_attestation.key_release.kbs import public_jwk
from keep_protocol.cmw import cmw_extension, encode_endorsements
from keep_protocol.evidence import encode_claims
from tests.unit.app_loader.sealing.test_envelope import LABEL
from tests.unit.keep_attestation.azure.forge import AzureVm
from tests.unit.keep_attestation.event_log.forge import agile_log, measured
from tests.unit.keep_attestation.event_log.test_ccel_table import table as ccel_table
from tests.unit.keep_attestation.intel.forge import Forge, td_report
from tests.unit.keep_attestation.key_release.broker import encrypt
from tests.unit.keep_attestation.nitro.forge import Module
from tests.unit.keep_attestation.ratls.foreign import GOOD
from tests.unit.keep_attestation.ratls.makers import FakeKeep, make_certificate
from tests.unit.keep_attestation.ratls.test_requests import make_request
from tests.unit.keep_attestation.snp.forge import fake_amd
from tests.unit.keep_attestation.snp.test_certificate_table import VCEK, table
from tests.unit.keep_attestation.tpm.forge import ForgedTpm

_MAX_REAL = 64 * 1024
"""Larger real files make fuzzing slow and say nothing new."""
_POLICY = b"""
name = "fuzzed"
[[snp]]
measurements = ["%(sha384)s"]
minimum-tcb = { Milan = { snp = 24 } }
[[snp]]
measurements = []
[tdx]
mr_td = ["%(sha384)s"]
rtmr0 = ["any"]
[sgx]
mr_enclaves = ["%(sha256)s"]
[nitro.pcrs]
0 = ["%(sha384)s"]
[tpm.pcrs.sha256]
7 = ["%(sha256)s"]
[azure-snp.pcrs.sha256]
7 = ["%(sha256)s"]
[simulated]
measurements = ["%(sha256)s"]
""" % {b"sha256": b"ab" * 32, b"sha384": b"cd" * 48}


@cache
def _intel() -> Forge:
    return Forge()


@cache
def _azure() -> AzureVm:
    return AzureVm()


@cache
def _tpms() -> tuple[ForgedTpm, ...]:
    return ForgedTpm(), ForgedTpm(_azure().key, _azure().tpm.scheme)


def _quotes() -> list[bytes]:
    newest = _intel().quote(td_report(mr_service_td=bytes(48)), version=5)
    return [_intel().good("tdx").body, _intel().good("sgx").body, newest]


def _certificates() -> list[bytes]:
    return [fake_amd().vcek().certificate, fake_amd().hierarchy.ark.der, _intel().pck_chain(), fake_amd().crl()]


def _cms() -> bytes:
    key = rsa.generate_private_key(65537, 2048)
    recipient = _self_signed(key)
    builder = pkcs7.PKCS7EnvelopeBuilder().set_data(b"key").add_recipient(recipient)
    return builder.encrypt(serialization.Encoding.DER, [pkcs7.PKCS7Options.Binary])


def _self_signed(key: rsa.RSAPrivateKey) -> x509.Certificate:
    return x509.load_der_x509_certificate(make_certificate(key, {}))


def _jwe() -> list[bytes]:
    keys = (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1()))
    return [json.dumps(encrypt(b"key", public_jwk(key))).encode() for key in keys]


def _broker_replies() -> list[bytes]:
    challenge = b'{"nonce": "bm9uY2U=", "extra-params": {"selected-hash-algorithm": "sha384"}}'
    return [challenge, b'kbs-session-id="0123456789abcdef"; Path=/; HttpOnly', *_jwe()]


def _kms_replies() -> list[bytes]:
    cms = _cms()
    reply = {"KeyId": "alias/keep", "CiphertextForRecipient": base64.b64encode(cms).decode()}
    credentials = {"AccessKeyId": "AKID", "SecretAccessKey": "key", "Token": "token"}
    failure = {"__type": "com.amazonaws.kms#AccessDeniedException", "message": "no"}
    return [cms, *(json.dumps(document).encode() for document in (reply, credentials, failure))]


def _wrappers() -> list[bytes]:
    collection = FakeKeep().collection()
    record = base64.urlsafe_b64encode(b"evidence").decode().rstrip("=")
    as_json = json.dumps({"__cmwc_t": "tag:example.com,2026:x", "a": ["application/x", record, 4]})
    endorsements = encode_endorsements(certificates=[b"a", b"b"], crls=[b"c"], collateral=b"{}")
    return [collection, cmw_extension(collection), endorsements, as_json.encode()]


def _claims() -> list[bytes]:
    keep = FakeKeep()
    fresh = keep.claims(nonce=bytes(range(32)), exporter=bytes(32), workload_sha256=bytes(32))
    return [encode_claims(keep.claims()), encode_claims(fresh)]


def _tcg_log() -> bytes:
    return agile_log(
        [
            measured(1, EventType.EV_SEPARATOR, bytes(4)),
            measured(4, EventType.EV_EFI_VARIABLE_DRIVER_CONFIG, bytes(16) + b"\x01" + bytes(15) + b"a\x00b"),
            measured(3, EventType.EV_IPL, b"kernel_cmdline: quiet"),
        ]
    )


def _dstack_log() -> bytes:
    payload = b"workload"
    digest = hashlib.sha384(b"\x01\x00\x00\x08:app-id:" + payload).hexdigest()
    event = {"imr": 3, "event_type": 0x08000001, "digest": digest, "event": "app-id", "event_payload": payload.hex()}
    return json.dumps([event]).encode()


def _edits() -> list[bytes]:
    """For targets that change a good artefact as the input says, three bytes for each change."""
    source = random.Random("edits")
    return [bytes([what]) + source.randbytes(3 * (1 + what % 3)) for what in range(16)]


_MADE: Mapping[str, Callable[[], list[bytes]]] = {
    "azure_bundle": lambda: [_azure().evidence().body],
    "azure_hcl": lambda: [_azure().report()],
    "ccel_table": lambda: [ccel_table()],
    "changed_evidence": _edits,
    "claims": _claims,
    "broker_replies": _broker_replies,
    "cms_enveloped": lambda: [_cms(), *_jwe()],
    "cmw_collection": _wrappers,
    "event_log_dstack": lambda: [_dstack_log()],
    "event_log_tcg": lambda: [_tcg_log()],
    "evidence_file": lambda: [*_quotes(), *_certificates(), fake_amd().vcek().report(), FakeKeep().collection()],
    "intel_collateral": lambda: [_intel().collateral("tdx")],
    "intel_quote": _quotes,
    "kms_replies": _kms_replies,
    "nitro_document": lambda: [Module().document()],
    "egress_rule": lambda: [
        b"https://api.example.com\nhttps://API.example.com./v1",
        b"**.example.com:443,8000-8010+GET\na.b.example.com:8001",
        b"10.0.0.0/8:*+private\nhttp://10.1.2.3:80/",
        b"[2001:db8::/32]:443\nhttps://[::ffff:1.2.3.4]/",
        "bücher.example:443\nhttp://0x7f.1@xn--bcher-kva.example".encode(),
    ],
    "policy_file": lambda: [_POLICY],
    "ratls_certificate": lambda: [
        FakeKeep().certificate(),
        *(make_certificate(key, extensions) for key, extensions in GOOD.values()),
    ],
    "ratls_extensions": lambda: [value for _, extensions in GOOD.values() for value in extensions.values()],
    "ratls_request": lambda: [make_request(key, extensions) for key, extensions in GOOD.values()],
    "sealed_envelope": lambda: [seal(bytes(32), b"sealed", LABEL)],
    "simulated_evidence": lambda: [attest(bytes(64), bytes(32))],
    "snp_certificate_table": lambda: [table((VCEK, b"vcek"), (UUID(int=1), b"other")), *_certificates()],
    "snp_endorsement_answers": lambda: [json.loads(_intel().collateral("tdx"))["tcb_info"].encode(), *_quotes()],
    "snp_evidence": _edits,
    "snp_report": lambda: [fake_amd().vcek().report(), *_edits()],
    "snp_vek": lambda: [*_certificates(), *_edits()],
    "tpm_attest": lambda: [tpm.attest({HashAlgorithm.SHA256: {0: bytes(32), 7: bytes(32)}}) for tpm in _tpms()],
    "tpm_bundle": lambda: [tpm.bundle() for tpm in _tpms()],
    "tpm_public": lambda: [tpm.public() for tpm in _tpms()],
    "tpm_signature": lambda: [tpm.sign(b"message") for tpm in _tpms()],
    "x509_certificate": lambda: [*_certificates(), *_edits()],
}

_REAL: Mapping[str, str] = {
    "azure_hcl": "azure-vtpm/*/hcl_report.bin",
    "ccel_table": "tdx/*/ccel_table*",
    "cms_enveloped": "kms/*/*.ber",
    "event_log_tcg": "t[dp]*/*/*log*",
    "evidence_file": "*/*/*.*",
    "intel_collateral": "collateral/*-2026-06.json",
    "intel_quote": "[st][dg]x/*/quote.*",
    "kms_replies": "kms/*/*.ber",
    "nitro_document": "nitro/*/doc.cbor",
    "ratls_certificate": "ratls/*/cert.*",
    "ratls_request": "*/*/*-csr.der",
    "snp_certificate_table": "snp/*/*table*",
    "snp_report": "snp/*/report.bin",
    "snp_vek": "snp/*/v?ek.der",
    "tpm_attest": "*/*/quote.msg",
    "tpm_signature": "*/*/quote.sig",
    "x509_certificate": "roots/*",
}
"""By target: where its format is in a folder of vectors."""
_MOST_REAL = 12


@cache
def seeds(name: str) -> tuple[bytes, ...]:
    """Artefacts for the target `name`; none for an unknown target."""
    made = _MADE[name]() if name in _MADE else []
    folder = os.environ.get("WASMKEEP_VECTORS")
    if folder and name in _REAL:
        files = sorted(path for path in Path(folder).glob(_REAL[name]) if 0 < path.stat().st_size <= _MAX_REAL)
        # Spread over all of them: neighbours are alike.
        made += [path.read_bytes() for path in files[:: len(files) // _MOST_REAL + 1]]
    return tuple(made)
