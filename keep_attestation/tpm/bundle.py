"""Reads the body of TPM evidence; the layout is `keep_protocol.tpm_evidence`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keep_attestation.cbor import decode_cbor
from keep_attestation.errors import MalformedEvidenceError, UnsupportedEvidenceError
from keep_attestation.event_log.event import HashAlgorithm
from keep_attestation.tpm.quote import PcrBanks
from keep_attestation.tpm.structures import PCR_COUNT
from keep_protocol.tpm_evidence import PcrValues, TpmBundleKey, encode_tpm_bundle

MAX_BUNDLE_SIZE = 256 * 1024
_MAX_PART = 64 * 1024
_MAX_INTERMEDIATES = 8

_KNOWN = frozenset(range(TpmBundleKey.QUOTE, TpmBundleKey.EK_CERTIFICATE + 1))


@dataclass(frozen=True, slots=True)
class TpmBundle:
    """The parts as they came; nothing in them is verified."""

    quote: bytes
    """TPMS_ATTEST."""
    signature: bytes
    """TPMT_SIGNATURE."""
    ak: bytes
    """TPMT_PUBLIC of the attestation key; a plain SubjectPublicKeyInfo is read too, and refused by the verifier."""
    pcrs: PcrBanks
    ak_certificate: bytes | None = None
    """DER, as the two that follow."""
    intermediates: tuple[bytes, ...] = ()
    ek_certificate: bytes | None = None

    def encode(self) -> bytes:
        """The body of evidence."""
        return encode_tpm_bundle(
            quote=self.quote,
            signature=self.signature,
            ak=self.ak,
            pcrs={int(bank): values for bank, values in self.pcrs.items()},
            ak_certificate=self.ak_certificate,
            intermediates=self.intermediates,
            ek_certificate=self.ek_certificate,
        )


def decode_bundle(data: bytes) -> TpmBundle:
    """The bundle in `data`, which must be its one deterministic encoding. Raises `MalformedEvidenceError`."""
    entries = bundle_entries(data, "TPM bundle", _KNOWN)
    bundle = TpmBundle(
        quote=octets(entries, TpmBundleKey.QUOTE, "the quote"),
        signature=octets(entries, TpmBundleKey.SIGNATURE, "the signature"),
        ak=octets(entries, TpmBundleKey.AK, "the attestation key"),
        pcrs=pcr_banks(entries),
        ak_certificate=_optional(entries, TpmBundleKey.AK_CERTIFICATE, "the attestation key's certificate"),
        intermediates=_intermediates(entries),
        ek_certificate=_optional(entries, TpmBundleKey.EK_CERTIFICATE, "the endorsement key's certificate"),
    )
    if bundle.encode() != data:
        raise MalformedEvidenceError("TPM bundle: it is not in deterministic CBOR")
    return bundle


def bundle_from_parts(
    quote: bytes,
    signature: bytes,
    ak: bytes,
    pcrs: PcrValues,
    *,
    ak_certificate: bytes | None = None,
    intermediates: Sequence[bytes] = (),
    ek_certificate: bytes | None = None,
) -> bytes:
    """The body of evidence from the files that other tools write (`tpm2_quote -m … -s …`, `tpm2_createak -f tpmt`)."""
    return encode_tpm_bundle(
        quote=quote,
        signature=signature,
        ak=ak,
        pcrs=pcrs,
        ak_certificate=ak_certificate,
        intermediates=intermediates,
        ek_certificate=ek_certificate,
    )


def bundle_entries(data: bytes, name: str, known: frozenset[int]) -> Mapping[int, Any]:
    """The map in `data`, of which all keys are `known`. Raises `MalformedEvidenceError`."""
    if len(data) > MAX_BUNDLE_SIZE:
        raise MalformedEvidenceError(f"{name}: {len(data)} bytes; at most {MAX_BUNDLE_SIZE} are read")
    entries = decode_cbor(data, name)
    if not isinstance(entries, dict):
        raise MalformedEvidenceError(f"{name}: it is no CBOR map")
    # True == 1 in Python: a boolean must not pass for a key.
    if unknown := [key for key in entries if type(key) is not int or key not in known]:
        raise UnsupportedEvidenceError(f"{name}: unknown key {str(unknown[0])[:40]!r}")
    return entries


def octets(entries: Mapping[int, Any], key: int, name: str) -> bytes:
    """Raises `MalformedEvidenceError`."""
    value = entries.get(key)
    if not isinstance(value, bytes) or not 1 <= len(value) <= _MAX_PART:
        raise MalformedEvidenceError(f"TPM bundle: {name} must be 1 to {_MAX_PART} bytes")
    return value


def pcr_banks(entries: Mapping[int, Any]) -> PcrBanks:
    """Raises `MalformedEvidenceError`."""
    banks = entries.get(TpmBundleKey.PCRS)
    if not isinstance(banks, dict):
        raise MalformedEvidenceError("TPM bundle: the PCR values must be a map by bank")
    read: dict[HashAlgorithm, Mapping[int, bytes]] = {}
    for number, values in banks.items():
        bank = HashAlgorithm.known(number) if type(number) is int else None
        if bank is None:
            raise UnsupportedEvidenceError(f"TPM bundle: PCRs of an unknown bank {str(number)[:40]!r}")
        if not isinstance(values, dict):
            raise MalformedEvidenceError("TPM bundle: a bank must be a map of values by number")
        for register, value in values.items():
            if type(register) is not int or not 0 <= register < PCR_COUNT or not isinstance(value, bytes):
                raise MalformedEvidenceError(
                    f"TPM bundle: PCRs have numbers from 0 to {PCR_COUNT - 1} and byte strings"
                )
        read[bank] = dict(values)
    return read


def _optional(entries: Mapping[int, Any], key: int, name: str) -> bytes | None:
    return octets(entries, key, name) if key in entries else None


def _intermediates(entries: Mapping[int, Any]) -> tuple[bytes, ...]:
    if TpmBundleKey.INTERMEDIATES not in entries:
        return ()
    match entries[TpmBundleKey.INTERMEDIATES]:
        case [_, *_] as certificates if len(certificates) <= _MAX_INTERMEDIATES:
            if all(isinstance(certificate, bytes) and certificate for certificate in certificates):
                return tuple(certificates)
    raise MalformedEvidenceError(f"TPM bundle: intermediates must be 1 to {_MAX_INTERMEDIATES} certificates")
