"""The manufacturers' own services, each asked once for what it has said and not taken back."""

from __future__ import annotations

from pathlib import Path

from keep_attestation.endorsement_sources.amd_kds import AmdKdsSource
from keep_attestation.endorsement_sources.cache import CachingFetch
from keep_attestation.endorsement_sources.https_fetch import HttpsFetch
from keep_attestation.endorsement_sources.intel_pcs import IntelPcsSource
from keep_attestation.endorsement_sources.interface import EndorsementSource, Fetch


def manufacturer_sources(cache: Path, *, fetch: Fetch | None = None) -> tuple[EndorsementSource, ...]:
    """AMD's key distribution service and Intel's provisioning certification service; answers are kept in `cache`.

    They learn which chip or platform somebody verifies. `fetch` replaces HTTPS to their hosts.
    """
    caching = CachingFetch(fetch or HttpsFetch(), cache)
    return AmdKdsSource(caching), IntelPcsSource(caching)
