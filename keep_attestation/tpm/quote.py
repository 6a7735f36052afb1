"""Checks a quote: who signed it, and that it covers every PCR value that came with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from keep_attestation.errors import MalformedEvidenceError
from keep_attestation.event_log.event import HashAlgorithm
from keep_attestation.evidence import Binding
from keep_attestation.tpm.structures import (
    Attest,
    Signature,
    SigningScheme,
    TpmPublicKey,
    parse_attest,
    parse_signature,
)
from keep_attestation.verdict import Checks

PcrBanks = Mapping[HashAlgorithm, Mapping[int, bytes]]
"""Values by bank and number of the register."""

_HASHES: Mapping[HashAlgorithm, hashes.HashAlgorithm] = {
    HashAlgorithm.SHA256: hashes.SHA256(),
    HashAlgorithm.SHA384: hashes.SHA384(),
    HashAlgorithm.SHA512: hashes.SHA512(),
}


@dataclass(frozen=True, slots=True)
class Quote:
    """A quote with its signature and the PCR values that are said to be behind it."""

    message: bytes
    """The signed bytes."""
    attest: Attest
    signature: Signature
    pcrs: PcrBanks


def parse_quote(message: bytes, signature: bytes, pcrs: PcrBanks) -> Quote:
    """Raises `MalformedEvidenceError`, also for values of another size than their bank's.

    A value too long and one too short beside it would have the same digest as two genuine ones.
    """
    for bank, values in pcrs.items():
        for register, value in values.items():
            if len(value) != bank.digest_size:
                raise MalformedEvidenceError(
                    f"PCR {register}: {len(value)} bytes in the bank {bank.name.lower()}, not {bank.digest_size}"
                )
    return Quote(message, parse_attest(message), parse_signature(signature), pcrs)


def check_quote(checks: Checks, quote: Quote, key: TpmPublicKey, scheme: int, scheme_hash: int, kind: str) -> bool:
    """Whether `key` with its one scheme signed the quote, and the quote covers exactly the PCR values given.

    Sources: TPM 2.0, Part 3, 18.4 (TPM2_Quote); the trap of CVE-2022-0317: values beside the quoted ones look quoted.
    """
    signature = quote.signature
    if (signature.scheme, signature.hash) != (scheme, scheme_hash):
        checks.fail(
            f"{kind}.signature",
            f"the signature is of scheme {signature.scheme.name} with {signature.hash.name}; the key's are "
            f"{scheme:#06x} with {scheme_hash:#06x}",
        )
        return False
    if not checks.expect(
        f"{kind}.signature",
        signature_holds(key, signature, quote.message),
        passed=f"{signature.scheme.name} with {signature.hash.name} by the attestation key",
        failed="the quote is not signed by the attestation key",
    ):
        return False
    given = {int(bank): tuple(sorted(values)) for bank, values in quote.pcrs.items() if values}
    quoted = {bank: registers for bank, registers in quote.attest.selection.items() if registers}
    if not quoted:
        checks.fail(f"{kind}.pcrs", "the quote covers no PCR at all, so it says nothing of the machine")
        return False
    if given != quoted:
        checks.fail(f"{kind}.pcrs", f"the quote covers {_shown(quoted)}, values were given for {_shown(given)}")
        return False
    digest = pcr_digest(quote)
    return checks.expect(
        f"{kind}.pcrs",
        digest == quote.attest.pcr_digest,
        passed=f"the values are the quoted ones: {_shown(quoted)}",
        failed=f"the values hash to {digest.hex()}, the quote has {quote.attest.pcr_digest.hex()}",
    )


def pcr_digest(quote: Quote) -> bytes:
    """Of the values in the order of the selection, by the hash that *signs*, whatever the bank's hash is."""
    values = (
        quote.pcrs[HashAlgorithm(bank)][register]
        for bank, registers in quote.attest.selection.items()
        for register in registers
    )
    return quote.signature.hash.digest(b"".join(values))


def check_qualifying_data(checks: Checks, attest: Attest, binding: Binding | None, kind: str) -> None:
    """Whether the quote's extraData is the binding's, all of it."""
    if binding is None:
        checks.note(f"{kind}.binding", "nothing was demanded: anybody may hold a copy of this quote")
    elif binding.qualifying_data is None:
        checks.fail(f"{kind}.binding", "the verifier demanded no qualifying data, which is what binds a quote")
    else:
        checks.expect(
            f"{kind}.binding",
            attest.extra_data == binding.qualifying_data,
            passed="the qualifying data are the expected ones",
            failed=f"the qualifying data are {attest.extra_data.hex() or 'empty'}, expected "
            f"{binding.qualifying_data.hex() or 'empty'}: the quote was made for something else",
        )


def signature_holds(key: TpmPublicKey, signature: Signature, message: bytes) -> bool:
    """Whether `signature` over `message` is by `key`. A key of another type than the scheme's is a plain no."""
    digest = _HASHES[signature.hash]
    try:
        match signature.scheme, key:
            case SigningScheme.RSASSA, rsa.RSAPublicKey():
                key.verify(signature.value, message, padding.PKCS1v15(), digest)
            case SigningScheme.RSAPSS, rsa.RSAPublicKey():
                # TPMs use the longest salt that fits or, in FIPS mode, one of the digest's size.
                pss = padding.PSS(mgf=padding.MGF1(digest), salt_length=padding.PSS.AUTO)
                key.verify(signature.value, message, pss, digest)
            case SigningScheme.ECDSA, ec.EllipticCurvePublicKey():
                key.verify(utils.encode_dss_signature(signature.r, signature.s), message, ec.ECDSA(digest))
            case _:
                return False
    except (InvalidSignature, ValueError):
        return False
    return True


def quote_facts(quote: Quote) -> dict[str, Any]:
    """What the quote says, by the names that policies use."""
    attest = quote.attest
    return {
        "nonce": attest.extra_data.hex(),
        "signature_scheme": quote.signature.scheme.name.lower(),
        "signature_hash": quote.signature.hash.name.lower(),
        "qualified_signer": attest.qualified_signer.hex(),
        "clock": attest.clock,
        "reset_count": attest.reset_count,
        "restart_count": attest.restart_count,
        "safe": attest.safe,
        "firmware": f"{attest.firmware:#x}",
        "pcr_selection": {_bank_name(bank): list(registers) for bank, registers in attest.selection.items()},
        "pcr_digest": attest.pcr_digest.hex(),
        "pcrs": {
            bank.name.lower(): {str(register): value.hex() for register, value in sorted(values.items())}
            for bank, values in quote.pcrs.items()
        },
    }


def _bank_name(bank: int) -> str:
    known = HashAlgorithm.known(bank)
    return f"{bank:#06x}" if known is None else known.name.lower()


def _shown(banks: Mapping[int, tuple[int, ...]]) -> str:
    shown = (f"{_bank_name(bank)}:{','.join(map(str, registers))}" for bank, registers in banks.items())
    return " ".join(shown) or "no PCR"
