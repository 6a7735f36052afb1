"""Evidence by a TPM 2.0: a quote over PCRs by a restricted key, with all that a verifier checks it with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from app_loader.attesters.tpm_commands import ENDORSEMENT, Tpm
from app_loader.attesters.tpm_templates import (
    ATTESTATION_KEY_TEMPLATE,
    ENDORSEMENT_ECC_CERTIFICATE,
    ENDORSEMENT_RSA_CERTIFICATE,
    GOOGLE_AK_CERTIFICATE,
    GOOGLE_AK_TEMPLATE,
)
from app_loader.attesters.tpm_transport import Transport
from app_loader.attesters.tpm_wire import Algorithm, TpmError
from keep_protocol.tpm_evidence import encode_tpm_bundle

BOOT_LOG = Path("/sys/kernel/security/tpm0/binary_bios_measurements")
"""What firmware and boot loader measured, as the kernel keeps it."""
MAX_BOOT_LOG_SIZE = 4 * 1024 * 1024

QUOTED_PCRS = (*range(16), 23)
"""What nobody can set back while the machine runs, and the application's own."""

_ATTEMPTS = 3


class TpmAttester:
    """Makes evidence by one TPM. Its attestation key is made once and stays loaded until `close`.

    The key follows from the TPM's endorsement seed and a fixed template, so its name is the same on every start and can
    be pinned. On Google Compute Engine the template is Google's, for which there is a certificate.
    """

    def __init__(self, transport: Transport) -> None:
        """Raises `TpmError` or `OSError`; `transport` is then still the caller's to close."""
        self._tpm = Tpm(transport)
        self._ak_certificate = _read_optional(self._tpm, GOOGLE_AK_CERTIFICATE)
        template = _read_optional(self._tpm, GOOGLE_AK_TEMPLATE) if self._ak_certificate else None
        if template is None:
            self._ak_certificate = None
        self._handle, self._public = self._tpm.create_primary(ENDORSEMENT, template or ATTESTATION_KEY_TEMPLATE)
        self._ek_certificate = _read_optional(self._tpm, ENDORSEMENT_ECC_CERTIFICATE) or _read_optional(
            self._tpm, ENDORSEMENT_RSA_CERTIFICATE
        )

    @property
    def ak(self) -> bytes:
        """TPMT_PUBLIC of the attestation key."""
        return self._public

    @property
    def ak_name(self) -> bytes:
        """What pins the attestation key: the hash of `ak` after the algorithm's number (TPM 2.0, Part 1, 16)."""
        return Algorithm.SHA256.to_bytes(2, "big") + hashlib.sha256(self._public).digest()

    def quote(self, qualifying_data: bytes, pcrs: Iterable[int] = QUOTED_PCRS) -> bytes:
        """Evidence over the SHA-256 bank that carries `qualifying_data` (at most 32 bytes).

        Raises `TpmError`, also when a PCR keeps changing while it is quoted, or `OSError`.
        """
        selection = sorted(set(pcrs))
        for _ in range(_ATTEMPTS):
            values = self._tpm.read_pcrs(Algorithm.SHA256, selection)
            attested, signature = self._tpm.quote(self._handle, qualifying_data, {Algorithm.SHA256: selection})
            # Values and quote are two commands; what is extended between them would make the evidence false.
            if attested.endswith(hashlib.sha256(b"".join(values[pcr] for pcr in selection)).digest()):
                return encode_tpm_bundle(
                    quote=attested,
                    signature=signature,
                    ak=self._public,
                    pcrs={Algorithm.SHA256: values},
                    ak_certificate=self._ak_certificate,
                    ek_certificate=self._ek_certificate,
                )
        raise TpmError(f"a PCR changed during each of {_ATTEMPTS} quotes")

    def activate_credential(self, blob: bytes, encrypted_secret: bytes, endorsement_template: bytes) -> bytes:
        """The secret that a verifier encrypted for this TPM's endorsement key and this very attestation key.

        Raises `TpmError` or `OSError`.
        """
        endorsement_key, _ = self._tpm.create_primary(ENDORSEMENT, endorsement_template)
        try:
            return self._tpm.activate_credential(self._handle, endorsement_key, blob, encrypted_secret)
        finally:
            self._tpm.flush(endorsement_key)

    def close(self) -> None:
        """Unload the key; the transport stays open, it is the caller's."""
        self._tpm.flush(self._handle)


def quote(transport: Transport, qualifying_data: bytes, pcrs: Iterable[int] = QUOTED_PCRS) -> bytes:
    """Evidence by a key that is made for it and unloaded again; see `TpmAttester`."""
    attester = TpmAttester(transport)
    try:
        return attester.quote(qualifying_data, pcrs)
    finally:
        attester.close()


def boot_log(path: Path = BOOT_LOG) -> bytes | None:
    """The measured boot's event log; None where there is none or this process may not read it."""
    try:
        with path.open("rb") as file:
            log = file.read(MAX_BOOT_LOG_SIZE + 1)
    except OSError:
        return None
    return log if 0 < len(log) <= MAX_BOOT_LOG_SIZE else None


def _read_optional(tpm: Tpm, index: int) -> bytes | None:
    try:
        return tpm.read_nv(index)
    except TpmError:
        return None
