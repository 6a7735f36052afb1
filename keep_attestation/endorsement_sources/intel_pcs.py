"""Intel's Provisioning Certification Service, API v4: collateral of SGX and TDX quotes."""

from __future__ import annotations

import re
from typing import TypeVar
from urllib.parse import unquote, urlencode, urlsplit

import dcap_qvl
import msgspec

from keep_attestation.endorsement_sources.interface import Fetch, Fetched
from keep_attestation.errors import EndorsementsError
from keep_attestation.evidence import Endorsements, Evidence
from keep_protocol.evidence import EvidenceKind

PCS_URL = "https://api.trustedservices.intel.com"
ROOT_CA_CRL_URL = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"

_FMSPC = re.compile(r"[0-9A-F]{12}", re.ASCII)
_CAS = ("processor", "platform")


class QuoteCollateral(msgspec.Struct, frozen=True):
    """The members of dcap-qvl's `QuoteCollateralV3` as JSON; chains are PEM, signatures and CRLs hex."""

    pck_crl_issuer_chain: str
    root_ca_crl: str
    pck_crl: str
    tcb_info_issuer_chain: str
    tcb_info: str
    """The JSON text exactly as signed."""
    tcb_info_signature: str
    qe_identity_issuer_chain: str
    qe_identity: str
    qe_identity_signature: str


class _TcbInfoReply(msgspec.Struct, frozen=True):
    # Raw: the signature is over these very bytes, and decoding and encoding again may change them.
    tcb_info: msgspec.Raw = msgspec.field(name="tcbInfo")
    signature: str


class _QeIdentityReply(msgspec.Struct, frozen=True):
    enclave_identity: msgspec.Raw = msgspec.field(name="enclaveIdentity")
    signature: str


_Reply = TypeVar("_Reply", _TcbInfoReply, _QeIdentityReply)


class IntelPcsSource:
    """Fetches the collateral of an SGX or TDX quote, for the platform that its PCK certificate names."""

    def __init__(self, fetch: Fetch, *, base: str = PCS_URL, root_ca_crl_url: str = ROOT_CA_CRL_URL) -> None:
        parts = urlsplit(base)
        if parts.scheme != "https" or not parts.netloc or "@" in parts.netloc or parts.path or parts.query:
            raise ValueError(f"{base!r} is no base of Intel's service: https and a host alone are")
        self._fetch = fetch
        self._base = base
        self._root_ca_crl_url = root_ca_crl_url

    def endorsements_for(self, evidence: Evidence) -> Endorsements:
        """Nothing for other kinds of evidence, or when collateral came along. Raises `EndorsementsError`."""
        if evidence.kind not in (EvidenceKind.SGX, EvidenceKind.TDX) or evidence.endorsements.collateral is not None:
            return Endorsements()
        fmspc, ca = platform_of(evidence.body)
        return Endorsements(collateral=msgspec.json.encode(self.collateral(evidence.kind, fmspc, ca)))

    def collateral(self, kind: EvidenceKind, fmspc: str, ca: str) -> QuoteCollateral:
        """What Intel says of platforms `fmspc` (12 hex digits) whose PCK certificates `ca` issues, `processor` or
        `platform`. Raises `EndorsementsError`."""
        service = f"{self._base}/{kind.value}/certification/v4"
        tcb = self._fetch(f"{service}/tcb?{urlencode({'fmspc': fmspc})}")
        tcb_info = _decode(tcb, _TcbInfoReply)
        identity = self._fetch(f"{service}/qe/identity")
        qe_identity = _decode(identity, _QeIdentityReply)
        pck_crl = self._fetch(f"{self._base}/sgx/certification/v4/pckcrl?{urlencode({'ca': ca, 'encoding': 'der'})}")
        return QuoteCollateral(
            pck_crl_issuer_chain=_chain(pck_crl, "sgx-pck-crl-issuer-chain"),
            root_ca_crl=self._fetch(self._root_ca_crl_url).body.hex(),
            pck_crl=pck_crl.body.hex(),
            tcb_info_issuer_chain=_chain(tcb, "tcb-info-issuer-chain"),
            tcb_info=_text(tcb_info.tcb_info),
            tcb_info_signature=tcb_info.signature,
            qe_identity_issuer_chain=_chain(identity, "sgx-enclave-identity-issuer-chain"),
            qe_identity=_text(qe_identity.enclave_identity),
            qe_identity_signature=qe_identity.signature,
        )


def platform_of(quote: bytes) -> tuple[str, str]:
    """FMSPC, in upper-case hex, and CA of the PCK certificate in `quote`. Raises `EndorsementsError`."""
    try:
        parsed = dcap_qvl.parse_quote(quote)
        fmspc, ca = str(parsed.fmspc()).upper(), str(parsed.ca())
    except ValueError as error:
        raise EndorsementsError(f"the quote names no platform to look for: {error}") from None
    # Both come from the evidence and go into addresses.
    if not _FMSPC.fullmatch(fmspc) or ca not in _CAS:
        raise EndorsementsError(f"the quote's PCK certificate names FMSPC {fmspc[:32]!r} and CA {ca[:32]!r}")
    return fmspc, ca


def _decode(fetched: Fetched, type_: type[_Reply]) -> _Reply:
    try:
        return msgspec.json.decode(fetched.body, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EndorsementsError(f"Intel's service gave no collateral of its documented form: {error}") from None


def _text(raw: msgspec.Raw) -> str:
    try:
        return bytes(raw).decode()
    except UnicodeDecodeError as error:
        raise EndorsementsError(f"Intel's service gave collateral that is not UTF-8: {error}") from None


def _chain(fetched: Fetched, header: str) -> str:
    value = fetched.headers.get(header)
    if not value:
        raise EndorsementsError(f"Intel's service left out the header {header}, which has the issuers")
    return unquote(value)
