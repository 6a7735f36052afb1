"""Makes Intel evidence under a root of our own: PCK chains, collateral and quotes, good ones and ones with one flaw."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from keep_attestation.evidence import Endorsements, Evidence
from keep_attestation.intel.anchors import TrustAnchors
from keep_protocol.evidence import EvidenceKind

NOW = datetime(2026, 6, 15, 12, tzinfo=UTC)
PPID = bytes(range(16))
FMSPC = bytes.fromhex("00806f050000")
QE_SIGNER = bytes([0xDC]) * 32
QE_PRODUCT = 2
_SGX_OID = "1.2.840.113741.1.13.1"
_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")

Tee = Literal["tdx", "sgx"]


@dataclass(frozen=True)
class Authority:
    """A key and its certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)


def make_authority(
    name: str,
    issuer: Authority | None = None,
    *,
    ca: bool = True,
    extension: bytes | None = None,
    curve: ec.EllipticCurve | None = None,
    key: ec.EllipticCurvePrivateKey | None = None,
    not_before: datetime = NOW - timedelta(days=400),
    not_after: datetime = NOW + timedelta(days=400),
) -> Authority:
    """A certificate for `key` or a new one on `curve` (P-256); self-signed without `issuer`. `extension` is the content
    of Intel's."""
    key = key or ec.generate_private_key(curve or ec.SECP256R1())
    subject = x509.Name(
        [
            x509.NameAttribute(x509.NameOID.COMMON_NAME, name),
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Intel Corporation"),
        ]
    )
    signer = key if issuer is None else issuer.key
    usage = x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=not ca,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if extension is not None:
        builder = builder.add_extension(
            x509.UnrecognizedExtension(x509.ObjectIdentifier(_SGX_OID), extension), critical=False
        )
    return Authority(key, builder.sign(signer, hashes.SHA256()))


def make_crl(issuer: Authority, revoked: Iterable[int] = (), *, this_update: datetime, next_update: datetime) -> bytes:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(this_update)
        .next_update(next_update)
        .add_extension(x509.CRLNumber(1), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False)
    )
    for serial in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(this_update).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(issuer.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def pck_extension(
    *, ppid: bytes = PPID, fmspc: bytes = FMSPC, cpu_svn: bytes = bytes([5] * 16), pce_svn: int = 11
) -> bytes:
    """Intel's extension (PCK Certificate and CRL Profile, section 1.3.5)."""
    components = [_entry(f"{_SGX_OID}.2.{number}", _integer(svn)) for number, svn in enumerate(cpu_svn, 1)]
    tcb = _der(
        0x30,
        *components,
        _entry(f"{_SGX_OID}.2.17", _integer(pce_svn)),
        _entry(f"{_SGX_OID}.2.18", _der(0x04, cpu_svn)),
    )
    return _der(
        0x30,
        _entry(f"{_SGX_OID}.1", _der(0x04, ppid)),
        _entry(f"{_SGX_OID}.2", tcb),
        _entry(f"{_SGX_OID}.3", _der(0x04, bytes(2))),
        _entry(f"{_SGX_OID}.4", _der(0x04, fmspc)),
        _entry(f"{_SGX_OID}.5", _der(0x0A, b"\x00")),
    )


def enclave_report(
    *,
    report_data: bytes = bytes(64),
    mr_enclave: bytes = bytes([0xEE]) * 32,
    mr_signer: bytes = bytes([0x51]) * 32,
    attributes: int = 0x05,
    isv_prod_id: int = 7,
    isv_svn: int = 3,
    config_id: bytes = bytes(64),
) -> bytes:
    versions = isv_prod_id.to_bytes(2, "little") + isv_svn.to_bytes(2, "little") + bytes(2)
    flags = attributes.to_bytes(8, "little") + bytes.fromhex("e700000000000000")
    measured = mr_enclave + bytes(32) + mr_signer + bytes(32) + config_id
    return bytes(48) + flags + measured + versions + bytes(58) + report_data


def td_report(
    *,
    report_data: bytes = bytes(64),
    td_attributes: int = 1 << 28,
    mr_td: bytes = bytes([0x7D]) * 48,
    rtmrs: tuple[bytes, bytes, bytes, bytes] = (bytes(48), bytes(48), bytes(48), bytes(48)),
    mr_service_td: bytes | None = None,
) -> bytes:
    """Of 584 bytes; with `mr_service_td` of 648."""
    svn = bytes([3, 0, 5, *bytes(13)])
    head = svn + bytes(48 + 48 + 8) + td_attributes.to_bytes(8, "little") + bytes.fromhex("e700060000000000")
    report = head + mr_td + bytes(48 * 3) + b"".join(rtmrs) + report_data
    return report if mr_service_td is None else report + svn + mr_service_td


@dataclass(frozen=True)
class Forge:
    """One world: a root, what it certified, and a platform. All methods give evidence that `anchors` trusts."""

    root: Authority = field(default_factory=lambda: make_authority("Intel SGX Root CA"))
    issue_date: datetime = NOW - timedelta(days=3)
    next_update: datetime = NOW + timedelta(days=27)
    pck_ca: Authority = field(init=False)
    pck: Authority = field(init=False)
    tcb_signer: Authority = field(init=False)
    attestation_key: ec.EllipticCurvePrivateKey = field(init=False)

    def __post_init__(self) -> None:
        pck_ca = make_authority("Intel SGX PCK Platform CA", self.root)
        object.__setattr__(self, "pck_ca", pck_ca)
        leaf = make_authority("Intel SGX PCK Certificate", pck_ca, ca=False, extension=pck_extension())
        object.__setattr__(self, "pck", leaf)
        object.__setattr__(self, "tcb_signer", make_authority("Intel SGX TCB Signing", self.root, ca=False))
        object.__setattr__(self, "attestation_key", ec.generate_private_key(ec.SECP256R1()))

    @property
    def anchors(self) -> TrustAnchors:
        spki = self.root.key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return frozenset({hashlib.sha256(spki).hexdigest()})

    def pck_chain(self) -> bytes:
        return self.pck.pem + self.pck_ca.pem + self.root.pem

    def quote(
        self,
        body: bytes,
        *,
        version: int = 4,
        certification: tuple[int, bytes] | None = None,
        attestation_key_type: int = 2,
        vendor: bytes = _VENDOR,
        qe_signer: bytes = QE_SIGNER,
        qe_svn: int = 8,
        qe_attributes: int = 0x11,
        qe_report_data: bytes | None = None,
        qe_key: ec.EllipticCurvePrivateKey | None = None,
        quote_key: ec.EllipticCurvePrivateKey | None = None,
        authentication: bytes = bytes(range(32)),
    ) -> bytes:
        """A quote over `body`, whose size tells its TEE; each keyword makes one flaw."""
        sgx = len(body) == 384
        header = (
            version.to_bytes(2, "little")
            + attestation_key_type.to_bytes(2, "little")
            + (0 if sgx else 0x81).to_bytes(4, "little")
            + bytes(4)
            + vendor
            + bytes(20)
        )
        kind = {384: 1, 584: 2, 648: 3}[len(body)]
        descriptor = kind.to_bytes(2, "little") + len(body).to_bytes(4, "little") if version >= 5 else b""
        signed = header + descriptor + body
        attestation_key = _point(self.attestation_key)
        bound = hashlib.sha256(attestation_key + authentication).digest() + bytes(32)
        qe_report = enclave_report(
            report_data=bound if qe_report_data is None else qe_report_data,
            mr_signer=qe_signer,
            attributes=qe_attributes,
            isv_prod_id=QE_PRODUCT,
            isv_svn=qe_svn,
        )
        number, data = (5, self.pck_chain()) if certification is None else certification
        certification_data = (
            qe_report
            + _sign(qe_key or self.pck.key, qe_report)
            + len(authentication).to_bytes(2, "little")
            + authentication
            + number.to_bytes(2, "little")
            + len(data).to_bytes(4, "little")
            + data
        )
        if version >= 4:
            certification_data = b"\x06\x00" + len(certification_data).to_bytes(4, "little") + certification_data
        trailer = _sign(quote_key or self.attestation_key, signed) + attestation_key + certification_data
        return signed + len(trailer).to_bytes(4, "little") + trailer

    def collateral(
        self,
        tee: Tee,
        *,
        status: str = "UpToDate",
        advisories: tuple[str, ...] = (),
        evaluation_number: int = 18,
        components: int = 16,
        fmspc: bytes = FMSPC,
        qe_id: str | None = None,
        qe_signer: bytes = QE_SIGNER,
        qe_identity_key: ec.EllipticCurvePrivateKey | None = None,
        tcb_info_key: ec.EllipticCurvePrivateKey | None = None,
        revoked_pck: Iterable[int] = (),
        revoked_cas: Iterable[int] = (),
        changes: dict[str, Any] | None = None,
    ) -> bytes:
        """Current collateral for the platform; each keyword changes one thing, `changes` members of the bundle."""
        dates = {
            "issueDate": self.issue_date.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "nextUpdate": self.next_update.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "tcbEvaluationDataNumber": evaluation_number,
        }
        tcb: dict[str, Any] = {"sgxtcbcomponents": [{"svn": 5}] * components, "pcesvn": 11}
        info: dict[str, Any] = {
            "id": tee.upper(),
            "version": 3,
            **dates,
            "fmspc": fmspc.hex().upper(),
            "pceId": "0000",
            "tcbType": 0,
        }
        if tee == "tdx":
            tcb["tdxtcbcomponents"] = [{"svn": svn} for svn in (3, 0, 5, *bytes(13))][:components]
            info["tdxModule"] = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "ff" * 8}
        level = {"tcb": tcb, "tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": status, "advisoryIDs": list(advisories)}
        tcb_info = json.dumps({**info, "tcbLevels": [level]})
        qe_level = {"tcb": {"isvsvn": 8}, "tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": "UpToDate"}
        qe_identity = json.dumps(
            {
                "id": qe_id or ("TD_QE" if tee == "tdx" else "QE"),
                "version": 2,
                **dates,
                "miscselect": "00000000",
                "miscselectMask": "FFFFFFFF",
                "attributes": "11000000000000000000000000000000",
                "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
                "mrsigner": qe_signer.hex().upper(),
                "isvprodid": QE_PRODUCT,
                "tcbLevels": [qe_level],
            }
        )
        period = {"this_update": self.issue_date, "next_update": self.next_update}
        signers = (self.tcb_signer.pem + self.root.pem).decode()
        bundle = {
            "pck_crl_issuer_chain": (self.pck_ca.pem + self.root.pem).decode(),
            "root_ca_crl": make_crl(self.root, revoked_cas, **period).hex(),
            "pck_crl": make_crl(self.pck_ca, revoked_pck, **period).hex(),
            "tcb_info_issuer_chain": signers,
            "tcb_info": tcb_info,
            "tcb_info_signature": _sign(tcb_info_key or self.tcb_signer.key, tcb_info.encode()).hex(),
            "qe_identity_issuer_chain": signers,
            "qe_identity": qe_identity,
            "qe_identity_signature": _sign(qe_identity_key or self.tcb_signer.key, qe_identity.encode()).hex(),
        }
        return json.dumps(bundle | (changes or {})).encode()

    def evidence(self, tee: Tee, quote: bytes, collateral: bytes | None, *, log: bytes | None = None) -> Evidence:
        return Evidence(kind=EvidenceKind(tee), body=quote, endorsements=Endorsements(collateral=collateral), log=log)

    def good(self, tee: Tee, *, report_data: bytes = bytes(64)) -> Evidence:
        """Evidence with nothing wrong but its root."""
        body = (td_report if tee == "tdx" else enclave_report)(report_data=report_data)
        return self.evidence(tee, self.quote(body, version=4 if tee == "tdx" else 3), self.collateral(tee))


def _sign(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def _point(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)[1:]


def _der(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    if len(content) < 128:
        return bytes([tag, len(content)]) + content
    size = len(content).to_bytes(2, "big")
    return bytes([tag, 0x82]) + size + content


def _integer(value: int) -> bytes:
    return _der(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _entry(oid: str, value: bytes) -> bytes:
    first, second, *arcs = map(int, oid.split("."))
    encoded = bytes([40 * first + second])
    for arc in arcs:
        digits = [arc & 0x7F]
        while arc := arc >> 7:
            digits.append(0x80 | arc & 0x7F)
        encoded += bytes(reversed(digits))
    return _der(0x30, _der(0x06, encoded), value)
