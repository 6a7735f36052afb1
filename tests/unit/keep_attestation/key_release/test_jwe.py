"""JWE of key brokers: two ways to wrap keys, checked against RFC 7518, and nothing else."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from keep_attestation.key_release.errors import MalformedReplyError
from keep_attestation.key_release.jwe import decrypt_flattened_jwe, parse_flattened_jwe
from keep_attestation.key_release.kbs import public_jwk
from keep_protocol.flattened_jwe import concat_kdf
from tests.unit.keep_attestation.key_release.broker import b64u, encrypt, unb64u

EC_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(65537, 2048)
KEYS: dict[str, Any] = {"EC": EC_KEY, "RSA": RSA_KEY}
SECRET = b"the secret key"


def sealed(key: Any, **changes: Any) -> bytes:
    return json.dumps(encrypt(SECRET, public_jwk(key), **changes)).encode()


def replaced(message: bytes, **members: Any) -> bytes:
    return json.dumps({**json.loads(message), **members}).encode()


@pytest.mark.parametrize("kind", KEYS)
def test_what_a_broker_encrypts_is_decrypted(kind: str) -> None:
    assert decrypt_flattened_jwe(sealed(KEYS[kind]), KEYS[kind]) == SECRET


def test_the_key_derivation_is_that_of_the_example_in_rfc_7518() -> None:
    # RFC 7518, appendix C.
    secret = bytes.fromhex("9e56d91d817135d372834283bf84269cfb316ea3da806a48f6daa7798cfe90c4")
    assert b64u(concat_kdf(secret, "A128GCM", b"Alice", b"Bob", 16)) == "VqqN6vgjbSBcIijNcacQGg"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"alg": "RSA1_5"}, "RSA1_5"),
        ({"alg": "RSA-OAEP"}, "RSA-OAEP"),
        ({"alg": "none"}, "none"),
        ({"alg": "dir"}, "dir"),
        ({"enc": "A128CBC-HS256"}, "A128CBC-HS256"),
        ({"zip": "DEF"}, "zip"),
        ({"crit": ["exp"]}, "crit"),
        ({"jku": "https://attacker"}, "jku"),
    ],
)
def test_other_algorithms_and_members_are_refused_by_name(changes: dict[str, Any], named: str) -> None:
    # Row 19: confusion of algorithms.
    for key in KEYS.values():
        with pytest.raises(MalformedReplyError, match=named):
            decrypt_flattened_jwe(sealed(key, **changes), key)


def test_the_sender_does_not_choose_what_the_key_is_used_for() -> None:
    with pytest.raises(MalformedReplyError, match="the key is for 'RSA-OAEP-256'"):
        decrypt_flattened_jwe(sealed(EC_KEY), RSA_KEY)
    with pytest.raises(MalformedReplyError, match=r"the key is for 'ECDH-ES\+A256KW'"):
        decrypt_flattened_jwe(sealed(RSA_KEY), EC_KEY)


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("member", ["encrypted_key", "iv", "ciphertext", "tag"])
def test_every_changed_part_is_refused(kind: str, member: str) -> None:
    message = sealed(KEYS[kind])
    octets = bytearray(unb64u(json.loads(message)[member]))
    for position in {0, len(octets) // 2, len(octets) - 1}:
        changed = bytearray(octets)
        changed[position] ^= 1
        with pytest.raises(MalformedReplyError, match="cannot be decrypted"):
            decrypt_flattened_jwe(replaced(message, **{member: b64u(bytes(changed))}), KEYS[kind])


def test_a_changed_header_is_refused_since_it_is_authenticated() -> None:
    message = sealed(RSA_KEY)
    header = json.loads(unb64u(json.loads(message)["protected"]))
    changed = replaced(message, protected=b64u(json.dumps({**header, "kid": "other"}).encode()))
    with pytest.raises(MalformedReplyError, match="cannot be decrypted"):
        decrypt_flattened_jwe(changed, RSA_KEY)


@pytest.mark.parametrize(
    "epk",
    [
        None,
        {"kty": "EC", "crv": "P-384", "x": b64u(bytes(48)), "y": b64u(bytes(48))},
        {"kty": "OKP", "crv": "P-256", "x": b64u(bytes(32)), "y": b64u(bytes(32))},
        {"kty": "EC", "crv": "P-256", "x": b64u(bytes(31)), "y": b64u(bytes(32))},
        {"kty": "EC", "crv": "P-256", "x": b64u(bytes(32)), "y": b64u(bytes(31) + b"\x01")},
        {"kty": "EC", "crv": "P-256", "x": "!", "y": b64u(bytes(32))},
    ],
)
def test_an_ephemeral_key_that_is_no_point_of_the_curve_is_refused(epk: Any) -> None:
    with pytest.raises(MalformedReplyError):
        decrypt_flattened_jwe(sealed(EC_KEY, epk=epk), EC_KEY)


@pytest.mark.parametrize(
    "members",
    [
        {"iv": b64u(bytes(16))},
        {"tag": b64u(bytes(8))},
        {"tag": b64u(bytes(16)) + "=="},
        {"tag": "+" * 22},
        {"protected": "e30"},
        {"protected": ""},
        {"header": {"alg": "dir"}},
        {"unprotected": {}},
        {"ciphertext": 1},
    ],
)
def test_other_forms_are_refused(members: dict[str, Any]) -> None:
    with pytest.raises(MalformedReplyError):
        decrypt_flattened_jwe(replaced(sealed(EC_KEY), **members), EC_KEY)


def test_a_message_of_more_than_a_megabyte_is_not_read() -> None:
    with pytest.raises(MalformedReplyError, match="at most"):
        parse_flattened_jwe(bytes(1024 * 1024 + 1))


@settings(max_examples=200, derandomize=True, deadline=None)
@given(
    st.binary(max_size=200)
    | st.dictionaries(
        st.sampled_from(["protected", "encrypted_key", "iv", "ciphertext", "tag"]),
        st.text(max_size=20) | st.binary(max_size=20).map(b64u),
    ).map(lambda members: replaced(sealed(EC_KEY), **members))
)
def test_nothing_but_our_own_errors_comes_out_of_arbitrary_messages(data: bytes) -> None:
    with contextlib.suppress(MalformedReplyError):
        assert decrypt_flattened_jwe(data, EC_KEY) == SECRET
