"""Finds the attester for the kind of evidence that a spec asks for, or says why there is none."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from app_loader.attesters.interface import Attestation, Attester, Statement
from app_loader.errors import AttesterError
from keep_protocol.evidence import EvidenceKind
from keep_protocol.handover import TPM_FD

if TYPE_CHECKING:
    from app_loader.attesters.tpm_commands import Tpm


class SimulatedAttester:
    """Signs with a published key; for tests and for trying things out."""

    kind = EvidenceKind.SIMULATED

    def __init__(self) -> None:
        from app_loader.attesters.code_measurement import measure_code

        self._measurement = measure_code()

    def attest(self, statement: Statement) -> Attestation:
        from app_loader.attesters.simulated import attest

        return Attestation(attest(statement.report_data, self._measurement))


class TpmQuoter:
    """Quotes by the TPM that the host has handed over; its key is made for every quote and unloaded again.

    A key that stayed loaded would be left behind in the TPM by every keep that is killed.
    """

    kind = EvidenceKind.TPM

    def __init__(self, descriptor: int) -> None:
        from app_loader.attesters.tpm_transport import DescriptorTransport

        self._transport = DescriptorTransport(descriptor)
        # Certificates are renewed in one thread while challenges are answered in another.
        self._one_at_a_time = threading.Lock()

    @contextmanager
    def borrowed(self) -> Iterator[Tpm]:
        """The same TPM, for something else than quotes; these wait meanwhile."""
        from app_loader.attesters.tpm_commands import Tpm

        with self._one_at_a_time:
            yield Tpm(self._transport)

    def attest(self, statement: Statement) -> Attestation:
        from app_loader.attesters.tpm import boot_log, quote
        from app_loader.attesters.tpm_wire import TpmError

        try:
            with self._one_at_a_time:
                return Attestation(quote(self._transport, statement.qualifying_data), log=boot_log())
        except (TpmError, OSError) as error:
            raise AttesterError(f"the TPM makes no quote: {error}") from error


def find_attester(kind: EvidenceKind, devices: Mapping[str, int]) -> Attester:
    """The attester of this kind, opened. Raises `AttesterError` where the machine has none.

    `devices` are descriptors that the host has handed over, by name.
    """
    # Each module is imported only in keeps that use it.
    if kind is EvidenceKind.SIMULATED:
        return SimulatedAttester()
    if kind in {EvidenceKind.SNP, EvidenceKind.TDX}:
        from app_loader.attesters.configfs_tsm import ConfigfsAttester

        try:
            return ConfigfsAttester(kind)
        except AttesterError as error:
            if kind is EvidenceKind.TDX:
                raise
            reason = error
        from app_loader.attesters.sev_guest import SevGuestAttester

        try:
            return SevGuestAttester()
        except AttesterError as error:
            raise AttesterError(f"{reason}; {error}") from None
    if kind is EvidenceKind.NITRO:
        from app_loader.attesters.nsm import NitroAttester

        return NitroAttester()
    if kind is EvidenceKind.TPM:
        if TPM_FD not in devices:
            raise AttesterError("the host has handed over no TPM")
        return TpmQuoter(devices[TPM_FD])
    raise AttesterError(f"this keep has nothing that makes {kind} evidence")
