"""What a keep's network refuses before it asks its broker."""

from __future__ import annotations

import asyncio

import pytest

from app_loader.events import Events
from app_loader.network import Network
from keep_protocol.egress.errors import EgressError
from keep_protocol.states import KeepEventKind
from tests.unit.keep_net.brokered import DIGEST, policy_of


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "127.1", "fe80::1%lo", "a b"])
def test_a_spelling_that_is_no_host_is_refused_and_an_event(host: str) -> None:
    events = Events()
    network = Network(policy_of(["127.0.0.1+private"]), DIGEST, None, events)
    with pytest.raises(EgressError):
        asyncio.run(network.connect(host, 443, method="GET"))
    (denial,) = events.page(0, 10).events
    assert denial.kind is KeepEventKind.EGRESS_DENIED
    assert (denial.detail["host"], denial.detail["port"], denial.detail["method"]) == (host, "443", "GET")
