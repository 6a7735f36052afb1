"""Makes SNP evidence that is genuine under roots of its own: AMD's hierarchy, chips and reports, all made here.

`FakeAmd` stands for AMD, `FakeChip` for one processor (or one cloud's VLEK on it). Verification refuses what they make,
unless it is given `FakeAmd.anchors`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache

from asn1crypto import core, crl
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from keep_attestation.certificates import read_certificate
from keep_attestation.evidence import Endorsements, Evidence
from keep_attestation.snp.anchors import Anchors, Hierarchy
from keep_attestation.snp.products import Product, TcbVersion
from keep_attestation.snp.report import REPORT_SIZE, SIGNED_SIZE
from keep_protocol.evidence import EvidenceKind

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
"""A time at which everything made here is valid."""
NOT_BEFORE = NOW - timedelta(days=365)
NOT_AFTER = NOW + timedelta(days=365)

MEASUREMENT = bytes(range(48))
CSP_ID = "CN=cc-us-east-2.amazonaws.com"

FIELDS: dict[str, tuple[int, int]] = {
    "version": (0x00, 4),
    "guest_svn": (0x04, 4),
    "policy": (0x08, 8),
    "family_id": (0x10, 16),
    "image_id": (0x20, 16),
    "vmpl": (0x30, 4),
    "sig_algo": (0x34, 4),
    "current_tcb": (0x38, 8),
    "platform_info": (0x40, 8),
    "key_info": (0x48, 4),
    "reserved_4c": (0x4C, 4),
    "report_data": (0x50, 64),
    "measurement": (0x90, 48),
    "host_data": (0xC0, 32),
    "id_key_digest": (0xE0, 48),
    "author_key_digest": (0x110, 48),
    "report_id": (0x140, 32),
    "report_id_ma": (0x160, 32),
    "reported_tcb": (0x180, 8),
    "cpuid": (0x188, 3),
    "reserved_18b": (0x18B, 21),
    "chip_id": (0x1A0, 64),
    "committed_tcb": (0x1E0, 8),
    "current_version": (0x1E8, 3),
    "reserved_1eb": (0x1EB, 1),
    "committed_version": (0x1EC, 3),
    "reserved_1ef": (0x1EF, 1),
    "launch_tcb": (0x1F0, 8),
    "launch_mit": (0x1F8, 8),
    "cur_mit": (0x200, 8),
    "reserved_208": (0x208, 0x98),
    "signature_r": (0x2A0, 72),
    "signature_s": (0x2E8, 72),
    "reserved_330": (0x330, 0x170),
}
"""Offset and size of every field of a report."""

_CPUIDS = {
    Product.MILAN: bytes([0x19, 0x01, 1]),
    Product.GENOA: bytes([0x19, 0x11, 1]),
    Product.TURIN: bytes([0x1A, 0x02, 1]),
}
_TCBS = {
    Product.MILAN: TcbVersion(bl=4, tee=0, snp=0x18, ucode=0xDB),
    Product.GENOA: TcbVersion(bl=10, tee=0, snp=0x19, ucode=0x54),
    Product.TURIN: TcbVersion(fmc=0, bl=1, tee=0, snp=2, ucode=0x47),
}
_PRODUCT_NAMES = {Product.MILAN: "Milan-B0", Product.GENOA: "Genoa", Product.TURIN: "Turin"}
_PSS = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=48)
_AMD_ARC = "1.3.6.1.4.1.3704.1"


def change(report: bytes, **fields: int | bytes) -> bytes:
    """`report` with fields of `FIELDS` replaced; integers in little endian. Its signature stays as it is."""
    changed = bytearray(report)
    for name, value in fields.items():
        offset, size = FIELDS[name]
        piece = value.to_bytes(size, "little") if isinstance(value, int) else value
        assert len(piece) == size, f"{name} has {size} bytes"
        changed[offset : offset + size] = piece
    return bytes(changed)


def mutated(original: bytes, edits: bytes) -> bytes:
    """`original` changed as `edits` say, which may be any bytes: triples of a position, in two of them and wrapping
    around, and of what is exclusive-ored there."""
    changed = bytearray(original)
    for high, low, value in zip(edits[::3], edits[1::3], edits[2::3], strict=False):
        changed[(high << 8 | low) % len(changed)] ^= value
    return bytes(changed)


def encode_tcb(tcb: TcbVersion) -> bytes:
    if tcb.fmc is not None:
        return bytes([tcb.fmc, tcb.bl, tcb.tee, tcb.snp, 0, 0, 0, tcb.ucode])
    return bytes([tcb.bl, tcb.tee, 0, 0, 0, 0, tcb.snp, tcb.ucode])


@dataclass(frozen=True, slots=True)
class FakeChip:
    """A key that signs reports, and its certificate."""

    product: Product
    key: ec.EllipticCurvePrivateKey
    certificate: bytes
    """DER."""
    tcb: TcbVersion
    chip_id: bytes
    """As in reports: 64 bytes, zero for a VLEK."""
    key_info: int

    def unsigned_report(self, **fields: int | bytes) -> bytes:
        """A report of version 3 of a guest without anything to complain about, with `fields` replaced."""
        tcb = encode_tcb(self.tcb)
        report = change(
            bytes(REPORT_SIZE),
            version=3,
            policy=0x30000,
            sig_algo=1,
            current_tcb=tcb,
            platform_info=0x25,
            key_info=self.key_info,
            measurement=MEASUREMENT,
            report_id=b"\x11" * 32,
            report_id_ma=b"\xff" * 32,
            reported_tcb=tcb,
            cpuid=_CPUIDS[self.product],
            chip_id=self.chip_id,
            committed_tcb=tcb,
            current_version=bytes([29, 55, 1]),
            committed_version=bytes([29, 55, 1]),
            launch_tcb=tcb,
        )
        return change(report, **fields)

    def sign(self, report: bytes) -> bytes:
        """`report` with a signature of this chip in place of what is there."""
        signature = self.key.sign(report[:SIGNED_SIZE], ec.ECDSA(hashes.SHA384()))
        r, s = decode_dss_signature(signature)
        return change(report, signature_r=r, signature_s=s)

    def report(self, **fields: int | bytes) -> bytes:
        return self.sign(self.unsigned_report(**fields))

    def evidence(
        self,
        report_data: bytes = bytes(64),
        *,
        beside: Sequence[bytes] = (),
        crls: Sequence[bytes] = (),
        **fields: int | bytes,
    ) -> Evidence:
        """Signed evidence with this chip's certificate and those `beside` it."""
        return Evidence(
            kind=EvidenceKind.SNP,
            body=self.report(report_data=report_data, **fields),
            endorsements=Endorsements(certificates=(self.certificate, *beside), crls=tuple(crls)),
        )


@dataclass(frozen=True, slots=True)
class FakeAmd:
    """AMD's keys of one product line, made here."""

    hierarchy: Hierarchy
    ark_key: rsa.RSAPrivateKey
    ask_key: rsa.RSAPrivateKey
    asvk_key: rsa.RSAPrivateKey

    @property
    def product(self) -> Product:
        return self.hierarchy.product

    @property
    def anchors(self) -> Anchors:
        """To be injected into `examine_snp`."""
        return (self.hierarchy,)

    def vcek(
        self,
        *,
        tcb: TcbVersion | None = None,
        hardware_id: bytes | None = None,
        wrapped_hardware_id: bool = False,
        product_name: str | None = None,
        curve: ec.EllipticCurve | None = None,
        not_before: datetime = NOT_BEFORE,
        not_after: datetime = NOT_AFTER,
        replaced: dict[str, bytes] | None = None,
    ) -> FakeChip:
        """A chip with its own key. `replaced` sets the content of extensions by their OID's part after AMD's arc."""
        if hardware_id is None:
            hardware_id = bytes(range(1, 9)) if self.product is Product.TURIN else bytes(range(1, 65))
        chip_id = hardware_id.ljust(64, b"\x00")
        content = core.OctetString(hardware_id).dump() if wrapped_hardware_id else hardware_id
        return self._vek(
            "SEV-VCEK", "4", content, chip_id, 0, tcb, product_name, curve, not_before, not_after, replaced or {}
        )

    def vlek(
        self,
        *,
        csp_id: str = CSP_ID,
        tcb: TcbVersion | None = None,
        not_before: datetime = NOT_BEFORE,
        not_after: datetime = NOT_AFTER,
    ) -> FakeChip:
        """A chip that signs with its cloud provider's key."""
        content = core.IA5String(csp_id).dump()
        name = self.product.value
        return self._vek("SEV-VLEK", "5", content, bytes(64), 4, tcb, name, None, not_before, not_after, {})

    def crl(
        self,
        *revoked: int,
        this_update: datetime = NOW - timedelta(days=1),
        next_update: datetime | None = NOW + timedelta(days=30),
        key: rsa.RSAPrivateKey | None = None,
    ) -> bytes:
        """A CRL of the ARK, DER; signed with another `key` a forged one. Without nextUpdate: none is in it."""
        builder = x509.CertificateRevocationListBuilder(
            issuer_name=_name(self.hierarchy.ark.subject_name),
            last_update=this_update,
            next_update=next_update or NOT_AFTER,
            revoked_certificates=[
                x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(NOT_BEFORE).build()
                for serial in revoked
            ],
        )
        der = builder.sign(key or self.ark_key, hashes.SHA384(), rsa_padding=_PSS).public_bytes(Encoding.DER)
        return der if next_update else _without_next_update(der, key or self.ark_key)

    def _vek(
        self,
        subject: str,
        identity: str,
        identity_content: bytes,
        chip_id: bytes,
        key_info: int,
        tcb: TcbVersion | None,
        product_name: str | None,
        curve: ec.EllipticCurve | None,
        not_before: datetime,
        not_after: datetime,
        replaced: dict[str, bytes],
    ) -> FakeChip:
        tcb = tcb or _TCBS[self.product]
        extensions = {
            "1": _integer(0 if tcb.fmc is None else 1),
            "2": core.IA5String(product_name or _PRODUCT_NAMES[self.product]).dump(),
            "3.1": _integer(tcb.bl),
            "3.2": _integer(tcb.tee),
            "3.3": _integer(tcb.snp),
            **(
                {f"3.{spare}": _integer(0) for spare in (4, 5, 6, 7)} if tcb.fmc is None else {"3.9": _integer(tcb.fmc)}
            ),
            "3.8": _integer(tcb.ucode),
            identity: identity_content,
        } | replaced
        is_vlek = subject == "SEV-VLEK"
        issuer = self.hierarchy.asvk if is_vlek else self.hierarchy.ask
        issuer_key = self.asvk_key if is_vlek else self.ask_key
        key = ec.generate_private_key(curve or ec.SECP384R1())
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(subject))
            .issuer_name(_name(issuer.subject_name))
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(not_before)
            .not_valid_after(not_after)
        )
        for part, content in extensions.items():
            oid = x509.ObjectIdentifier(f"{_AMD_ARC}.{part}")
            builder = builder.add_extension(x509.UnrecognizedExtension(oid, content), critical=False)
        der = builder.sign(issuer_key, hashes.SHA384(), rsa_padding=_PSS).public_bytes(Encoding.DER)
        return FakeChip(
            product=self.product,
            key=key,
            certificate=_with_serial_zero(der, issuer_key),
            tcb=tcb,
            chip_id=chip_id,
            key_info=key_info,
        )


@cache
def fake_amd(product: Product = Product.MILAN, *, rsa_bits: int = 2048, generation: int = 0) -> FakeAmd:
    """One hierarchy per set of arguments and process; other `generation`s are other keys of the same names.

    AMD's keys have 4096 bits, which take seconds to make.
    """
    ark_key, ask_key, asvk_key = (rsa.generate_private_key(65537, rsa_bits) for _ in range(3))
    root = f"ARK-{product}"
    ark = _ca(root, 0x10000, ark_key, root, ark_key, path_length=None, signs_crls=True)
    ask = _ca(f"SEV-{product}", 0x10001, ask_key, root, ark_key, path_length=0, signs_crls=False)
    asvk = _ca(f"SEV-VLEK-{product}", 0x10101, asvk_key, root, ark_key, path_length=0, signs_crls=False)
    hierarchy = Hierarchy(
        product=product, ark=read_certificate(ark), ask=read_certificate(ask), asvk=read_certificate(asvk)
    )
    return FakeAmd(hierarchy=hierarchy, ark_key=ark_key, ask_key=ask_key, asvk_key=asvk_key)


def _ca(
    subject: str,
    serial: int,
    key: rsa.RSAPrivateKey,
    issuer: str,
    issuer_key: rsa.RSAPrivateKey,
    *,
    path_length: int | None,
    signs_crls: bool,
) -> bytes:
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=signs_crls,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(NOT_BEFORE)
        .not_valid_after(NOT_AFTER)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(usage, critical=True)
        .sign(issuer_key, hashes.SHA384(), rsa_padding=_PSS)
        .public_bytes(Encoding.DER)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(x509.NameOID.ORGANIZATIONAL_UNIT_NAME, "Engineering"),
            x509.NameAttribute(x509.NameOID.COUNTRY_NAME, "US"),
            x509.NameAttribute(x509.NameOID.LOCALITY_NAME, "Santa Clara"),
            x509.NameAttribute(x509.NameOID.STATE_OR_PROVINCE_NAME, "CA"),
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Advanced Micro Devices"),
            x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name),
        ]
    )


def _with_serial_zero(der: bytes, issuer_key: rsa.RSAPrivateKey) -> bytes:
    """As AMD numbers every VEK; `cryptography` refuses to write it."""
    certificate = asn1_x509.Certificate.load(der)
    certificate["tbs_certificate"]["serial_number"] = 0
    signed = certificate["tbs_certificate"].dump(force=True)
    certificate["signature_value"] = issuer_key.sign(signed, _PSS, hashes.SHA384())
    return bytes(certificate.dump(force=True))


def _without_next_update(der: bytes, issuer_key: rsa.RSAPrivateKey) -> bytes:
    revocations = crl.CertificateList.load(der)
    del revocations["tbs_cert_list"]["next_update"]
    signed = revocations["tbs_cert_list"].dump(force=True)
    revocations["signature"] = issuer_key.sign(signed, _PSS, hashes.SHA384())
    return bytes(revocations.dump(force=True))


def _integer(value: int) -> bytes:
    return bytes(core.Integer(value).dump())
