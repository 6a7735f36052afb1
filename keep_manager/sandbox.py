"""What is known of a keep's sandbox, directive by directive, and how it is known."""

from __future__ import annotations

import asyncio
import logging

from keep_manager.errors import SupervisorError
from keep_manager.supervisor.interface import SandboxReport, Supervisor
from keep_protocol.handover import SandboxFact
from keep_protocol.manager_api import Directive

_logger = logging.getLogger(__name__)

_PROBE_PATIENCE = 15.0


async def describe_sandbox(
    supervisor: Supervisor, facts: tuple[SandboxFact, ...], *, machine: bool
) -> tuple[Directive, ...]:
    """Every directive of the keep's unit: what the keep found when it started goes before what a probe unit found."""
    try:
        async with asyncio.timeout(_PROBE_PATIENCE):
            report = await supervisor.sandbox(machine=machine)
    except (SupervisorError, TimeoutError) as error:
        _logger.warning("the sandbox cannot be probed: %s", error)
        report = SandboxReport((), (), "")
    return merge(report, facts)


def merge(report: SandboxReport, facts: tuple[SandboxFact, ...]) -> tuple[Directive, ...]:
    """One line for each directive, the probed ones in the unit's order and then what only the keep knows."""
    now = {fact.name: fact for fact in facts}
    probed = {fact.name: fact for fact in report.facts}
    names = dict.fromkeys((*report.directives, *now))
    return tuple(_directive(name, now.get(name), probed.get(name), report.date) for name in names)


def _directive(name: str, now: SandboxFact | None, probed: SandboxFact | None, date: str) -> Directive:
    if now is not None:
        return Directive(name, "verified now" if now.holds else "not effective", now.detail)
    if probed is not None:
        detail = f"{date} {probed.detail}".strip()
        return Directive(name, "verified by probe" if probed.holds else "not effective", detail)
    return Directive(name, "not testable")
