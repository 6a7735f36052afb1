"""Does once in a template what every keep does when it starts, so that its clones find it done.

Libraries bind symbols, look algorithms up and make tables when they are first used. What that leaves in memory, clones
have.
"""

from __future__ import annotations

import os
import ssl
from contextlib import suppress
from pathlib import Path

import msgspec

from app_loader.identity import Identity
from app_loader.principals import Principals
from app_loader.revocation import Revocations
from app_loader.tls import Trust
from keep_protocol.spec import Principal, decode_spec
from keep_protocol.states import KeepRole


def rehearse() -> None:
    """Read a spec that is none, and shake hands with oneself, by a key of nobody's that is forgotten at once."""
    with suppress(msgspec.DecodeError):
        decode_spec(b"{}")
    identity = Identity("rehearsal", "invalid", ())
    certificate = "".join(identity.certificate.splitlines()[1:-1])
    principal = Principal(roles=(KeepRole.OWNER,), certificate=certificate)
    principals = Principals([principal], Revocations(Path(os.devnull)))
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    identity.load_into(client)
    server = _shake_hands(Trust(identity, principals).listening, client)
    principals.identify(server.getpeercert(binary_form=True), server.getpeercert())


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> ssl.SSLObject:
    """The server's end of a connection in memory. Raises `ssl.SSLError`."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, server_side=True)]
    shaken = 0
    while shaken < len(ends):
        shaken = 0
        for end in ends:
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
                shaken += 1
    return ends[1]
