"""Who asks, with which rights, and which keeps they may see and manage."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from keep_manager.entry import KeepEntry
from keep_manager.identity import Identity
from keep_manager.roles import Rights
from keep_protocol.states import ManagerRole


@dataclass(frozen=True, slots=True)
class Caller:
    """An identity and what the roles table says of it at the time of this request."""

    identity: Identity
    rights: Rights

    @property
    def id(self) -> str:
        return self.identity.spiffe_id

    @property
    def is_operator(self) -> bool:
        return ManagerRole.OPERATOR in self.rights.roles

    @property
    def sees_everything(self) -> bool:
        return self.is_operator or ManagerRole.AUDITOR in self.rights.roles

    def sees(self, entry: KeepEntry) -> bool:
        """Whether the keep exists as far as the caller is told."""
        return self.sees_everything or (ManagerRole.TENANT in self.rights.roles and entry.owner == self.id)

    def manages(self, entry: KeepEntry) -> bool:
        """Whether the caller may stop, start and remove the keep."""
        return self.is_operator or (ManagerRole.TENANT in self.rights.roles and entry.owner == self.id)

    def is_principal(self, entry: KeepEntry, client_ca: bytes) -> bool:
        """Whether the keep's spec lets the caller in: by exact certificate, or by id below our client CA (DER)."""
        certificate = base64.b64encode(self.identity.certificate).decode()
        ca = base64.b64encode(client_ca).decode()
        return any(
            principal.certificate == certificate or (principal.spiffe_id == self.id and principal.ca == ca)
            for principal in entry.spec.principals
        )
