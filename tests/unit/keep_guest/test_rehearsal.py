"""What a template does once for all its clones: it must be what keeps do, or they would do it again."""

from __future__ import annotations

from typing import Any

import pytest

from app_loader.principals import Client, Principals
from keep_guest.rehearsal import rehearse
from keep_protocol.states import KeepRole


def test_a_rehearsal_lets_a_pinned_client_in_as_a_keep_would(monkeypatch: pytest.MonkeyPatch) -> None:
    let_in: list[Client] = []
    identify = Principals.identify

    def recorded(principals: Principals, der: bytes | None, names: dict[str, Any] | None) -> Client:
        let_in.append(identify(principals, der, names))
        return let_in[-1]

    monkeypatch.setattr(Principals, "identify", recorded)
    rehearse()
    assert [client.roles() for client in let_in] == [{KeepRole.OWNER}]
