"""AMD's Key Distribution Service: VCEK certificates by chip and TCB, intermediates, CRLs (AMD 57230, "KDS")."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urlencode, urlsplit

from keep_attestation.certificates import Certificate, read_certificate, read_certificates
from keep_attestation.endorsement_sources.interface import EndorsementNotFoundError, Fetch
from keep_attestation.errors import EndorsementsError, MalformedEvidenceError
from keep_attestation.evidence import Endorsements, Evidence
from keep_attestation.snp.products import Product, TcbVersion, decode_tcb, processor_of
from keep_attestation.snp.report import Report, SigningKey, parse_report
from keep_attestation.snp.vek import EndorsementKey, endorsement_key_of, read_vek
from keep_protocol.evidence import EvidenceKind

KDS_URL = "https://kdsintf.amd.com"

_PATH = re.compile(r"/(vcek|vlek)/v1/(Milan|Genoa|Turin)/([0-9a-f]{16}|[0-9a-f]{128}|cert_chain|crl)", re.ASCII)
_TURIN_ID_SIZE = 8


def vcek_url(product: Product, chip_id: bytes, tcb: TcbVersion, *, base: str = KDS_URL) -> str:
    """Where the VCEK certificate of a chip (the report's 64 bytes) at a TCB version is.

    Raises `EndorsementsError` for ids and bases that make no such URL.
    """
    hardware_id = chip_id
    if product is Product.TURIN:
        hardware_id, rest = chip_id[:_TURIN_ID_SIZE], chip_id[_TURIN_ID_SIZE:]
        if any(rest):
            raise EndorsementsError(f"a Turin's chip id has {_TURIN_ID_SIZE} bytes and zeros; this has more")
    levels = {"blSPL": tcb.bl, "teeSPL": tcb.tee, "snpSPL": tcb.snp, "ucodeSPL": tcb.ucode}
    if tcb.fmc is not None:
        levels = {"fmcSPL": tcb.fmc, **levels}
    return _checked(f"{base}/vcek/v1/{product}/{hardware_id.hex()}?{urlencode(levels)}", base)


def certificate_chain_url(product: Product, key: EndorsementKey, *, base: str = KDS_URL) -> str:
    """Where ASK (for VCEKs) or ASVK (for VLEKs) and ARK are, in PEM. Raises `EndorsementsError`."""
    return _checked(f"{base}/{key.lower()}/v1/{product}/cert_chain", base)


def crl_url(product: Product, key: EndorsementKey, *, base: str = KDS_URL) -> str:
    """Where the CRL of the ARK is, in DER. Raises `EndorsementsError`."""
    return _checked(f"{base}/{key.lower()}/v1/{product}/crl", base)


def _checked(url: str, base: str) -> str:
    parts, expected = urlsplit(url), urlsplit(base)
    if (
        parts.scheme != "https"
        or expected.path
        or "@" in parts.netloc
        or parts.netloc != expected.netloc
        or not _PATH.fullmatch(parts.path)
    ):
        raise EndorsementsError(f"{url[:200]!r} is no address of AMD's key service below {base!r}")
    return url


class AmdKdsSource:
    """Fetches what an SNP report lacks: its VCEK's certificate and the root's CRL.

    `with_crl` False leaves the CRL out; `with_chain` adds the intermediates, for verifiers that do not bring them.
    VLEKs are not to be had there: cloud providers hand them out on their hosts.
    """

    def __init__(self, fetch: Fetch, *, base: str = KDS_URL, with_crl: bool = True, with_chain: bool = False) -> None:
        self._fetch = fetch
        self._base = base
        self._with_crl = with_crl
        self._with_chain = with_chain

    def endorsements_for(self, evidence: Evidence) -> Endorsements:
        """Nothing for other kinds of evidence. Raises `EndorsementsError`."""
        if evidence.kind is not EvidenceKind.SNP:
            return Endorsements()
        try:
            return self._endorsements_for(evidence)
        except MalformedEvidenceError as error:
            raise EndorsementsError(f"no endorsements are looked for: {error}") from None

    def _endorsements_for(self, evidence: Evidence) -> Endorsements:
        report = parse_report(evidence.body)
        if report.key_info.signing_key is SigningKey.NONE:
            raise EndorsementsError("the report is not signed, so no key vouches for it")
        key = EndorsementKey[report.key_info.signing_key.name]
        certificate = _fitting(report, key, tuple(map(read_certificate, evidence.endorsements.certificates)))
        found: tuple[bytes, ...] = ()
        if certificate is None:
            if key is EndorsementKey.VLEK:
                raise EndorsementsError("a VLEK's certificate is not at AMD's key service: the host's table has it")
            certificate = self._vcek(report)
            found = (certificate.der,)
        product = read_vek(certificate).product
        if self._with_chain:
            chain = self._fetch(certificate_chain_url(product, key, base=self._base)).body
            found += tuple(each.der for each in read_certificates(chain))
        crls = (self._fetch(crl_url(product, key, base=self._base)).body,) if self._with_crl else ()
        return Endorsements(certificates=found, crls=crls)

    def _vcek(self, report: Report) -> Certificate:
        if not any(report.chip_id):
            raise EndorsementsError("the host masks the chip's id, without which its VCEK cannot be asked for")
        # Reports of version 2 do not name the product; Turin never made one.
        products = (processor_of(report.cpuid).product,) if report.version >= 3 else (Product.MILAN, Product.GENOA)
        for product in products:
            tcb = decode_tcb(report.reported_tcb, product)
            try:
                return read_certificate(self._fetch(vcek_url(product, report.chip_id, tcb, base=self._base)).body)
            except EndorsementNotFoundError:
                continue
        raise EndorsementNotFoundError(
            f"AMD's key service knows no VCEK of chip {report.chip_id.hex()[:16]}… at the TCB "
            f"{report.reported_tcb.hex()} among {' and '.join(products)}"
        )


def _fitting(report: Report, key: EndorsementKey, certificates: Sequence[Certificate]) -> Certificate | None:
    for certificate in certificates:
        if endorsement_key_of(certificate) is key:
            vek = read_vek(certificate)
            if decode_tcb(report.reported_tcb, vek.product) == vek.tcb:
                return certificate
    return None
