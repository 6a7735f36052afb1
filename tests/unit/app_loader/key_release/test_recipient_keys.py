"""JWE of key brokers inside a keep: opened with the key of this fetch and no other, and only in two forms."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from app_loader.key_release.errors import MalformedReplyError
from app_loader.key_release.recipient_keys import RecipientKey, new_recipient, open_jwe
from keep_protocol.secret_sources import BrokerKey
from tests.unit.keep_attestation.key_release.broker import b64u, encrypt, unb64u

SECRET = b"the secret key"


def made(kind: BrokerKey) -> RecipientKey:
    return asyncio.run(new_recipient(kind))


KEYS = {kind: made(kind) for kind in BrokerKey}


def sealed(key: RecipientKey, **changes: Any) -> bytes:
    return json.dumps(encrypt(SECRET, key.jwk(), **changes)).encode()


@pytest.mark.parametrize("kind", BrokerKey)
def test_what_a_broker_encrypts_is_opened_and_by_this_key_only(kind: BrokerKey) -> None:
    assert open_jwe(sealed(KEYS[kind]), KEYS[kind]) == SECRET
    with pytest.raises(MalformedReplyError, match="cannot be decrypted"):
        open_jwe(sealed(KEYS[kind]), made(kind))


@pytest.mark.parametrize("kind", BrokerKey)
@pytest.mark.parametrize(
    "changes",
    [
        {"alg": "none"},
        {"alg": "dir"},
        {"alg": "RSA1_5"},
        {"alg": "RSA-OAEP"},
        {"alg": "ECDH-ES"},
        {"enc": "none"},
        {"enc": "A128GCM"},
        {"enc": "A256CBC-HS512"},
        {"zip": "DEF"},
        {"crit": ["exp"]},
        {"jku": "https://attacker"},
    ],
)
def test_other_algorithms_and_members_are_refused_by_name(kind: BrokerKey, changes: dict[str, Any]) -> None:
    # Row 19: confusion of algorithms.
    name, value = next(iter(changes.items()))
    with pytest.raises(MalformedReplyError, match=value if name in {"alg", "enc"} else name):
        open_jwe(sealed(KEYS[kind], **changes), KEYS[kind])


def test_the_sender_does_not_choose_what_the_key_is_used_for() -> None:
    for kind, other in ((BrokerKey.EC, BrokerKey.RSA), (BrokerKey.RSA, BrokerKey.EC)):
        with pytest.raises(MalformedReplyError, match="ours is for"):
            open_jwe(sealed(KEYS[other]), KEYS[kind])


@pytest.mark.parametrize("kind", BrokerKey)
@pytest.mark.parametrize("member", ["protected", "encrypted_key", "iv", "ciphertext", "tag"])
def test_every_changed_part_is_refused(kind: BrokerKey, member: str) -> None:
    message = json.loads(sealed(KEYS[kind]))
    octets = bytearray(unb64u(message[member]))
    octets[-1] ^= 1
    with pytest.raises(MalformedReplyError):
        open_jwe(json.dumps(message | {member: b64u(bytes(octets))}).encode(), KEYS[kind])


@pytest.mark.parametrize(
    "ephemeral",
    [
        None,
        {"kty": "EC", "crv": "P-384", "x": b64u(bytes(48)), "y": b64u(bytes(48))},
        {"kty": "RSA", "crv": "P-256", "x": "", "y": ""},
        {"kty": "EC", "crv": "P-256", "x": b64u(bytes(31)), "y": b64u(bytes(32))},
        # Not on the curve: each answer would tell something of our key.
        {"kty": "EC", "crv": "P-256", "x": b64u(bytes(31) + b"\x05"), "y": b64u(bytes(31) + b"\x01")},
        {"kty": "EC", "crv": "P-256", "x": b64u(bytes(32)), "y": b64u(bytes(32))},
    ],
)
def test_ephemeral_keys_that_are_none_of_the_curve_are_refused(ephemeral: dict[str, str] | None) -> None:
    key = KEYS[BrokerKey.EC]
    with pytest.raises(MalformedReplyError):
        open_jwe(sealed(key, epk=ephemeral), key)


def test_a_secret_that_comes_unencrypted_is_refused_and_not_repeated() -> None:
    text = SECRET.decode()
    for reply in (text, json.dumps(text), json.dumps({text: text})):
        with pytest.raises(MalformedReplyError) as refused:
            open_jwe(reply.encode(), KEYS[BrokerKey.EC])
        assert text not in str(refused.value)
