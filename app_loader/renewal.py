"""Renews a keep's certificate, and the evidence in it, while it serves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from app_loader.errors import AppLoaderError
from app_loader.identity import Identity

CHECK_INTERVAL: Final = 60.0
"""Seconds; a clock that jumps is noticed as late as this, and a renewal that failed is tried again."""

_logger = logging.getLogger(__name__)


async def renew_when_due(
    identity: Identity,
    attesting: asyncio.Lock,
    publish: Callable[[str], None],
    *,
    check_interval: float = CHECK_INTERVAL,
) -> None:
    """Run for the life of the keep. `publish` gets every new certificate (PEM).

    `attesting` is held while hardware makes evidence, which answers one at a time and slowly.
    """
    while True:
        await asyncio.sleep(check_interval)
        if not identity.due:
            continue
        try:
            async with attesting:
                await asyncio.to_thread(identity.renew)
        except AppLoaderError as error:
            # Half of the old one's life is left for trying again.
            _logger.error("the certificate is not renewed yet: %s", error)
            continue
        publish(identity.certificate)
