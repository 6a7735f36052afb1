"""Makes what a keep shows to prove itself: claims, evidence over them, and the collection that carries both."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable

from app_loader.attesters.interface import Attester, Statement
from keep_protocol.cmw import build_collection
from keep_protocol.evidence import Claims, encode_claims


class EvidenceMaker:
    """One keep's evidence, over whatever is true of the keep when it is asked for."""

    def __init__(
        self,
        attester: Attester,
        *,
        keep: str,
        backend: str,
        spec_sha256: bytes,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.attester = attester
        self._keep = keep
        self._backend = backend
        self._spec_sha256 = spec_sha256
        self._clock = clock

    def claims(
        self,
        spki: bytes,
        *,
        nonce: bytes | None = None,
        exporter: bytes | None = None,
        workload_sha256: bytes | None = None,
        configuration_sha256: bytes | None = None,
    ) -> bytes:
        """What evidence says of the keep now, in deterministic CBOR."""
        return encode_claims(
            Claims(
                kind=self.attester.kind,
                backend=self._backend,
                keep=self._keep,
                spki_sha256=hashlib.sha256(spki).digest(),
                spec_sha256=self._spec_sha256,
                workload_sha256=workload_sha256,
                configuration_sha256=configuration_sha256,
                nonce=nonce,
                exporter=exporter,
                issued_at=int(self._clock()),
            )
        )

    def collection(
        self,
        spki: bytes,
        *,
        nonce: bytes | None = None,
        exporter: bytes | None = None,
        workload_sha256: bytes | None = None,
        configuration_sha256: bytes | None = None,
    ) -> bytes:
        """A CMW collection (RFC 9999) in CBOR. Blocks while the hardware works. Raises `AttesterError`."""
        claims = self.claims(
            spki,
            nonce=nonce,
            exporter=exporter,
            workload_sha256=workload_sha256,
            configuration_sha256=configuration_sha256,
        )
        made = self.attester.attest(Statement(claims, spki, nonce))
        return build_collection(self.attester.kind, made.evidence, claims, endorsements=made.endorsements, log=made.log)
