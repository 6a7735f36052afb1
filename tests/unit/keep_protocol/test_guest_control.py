"""Lines between a host and its guest: whole ones only, and nothing that the protocol does not have."""

from __future__ import annotations

from base64 import b64encode

import msgspec
import pytest

from keep_protocol.guest_control import (
    GUEST_PROTOCOL_VERSION,
    MIN_ENTROPY,
    Alive,
    Awake,
    GuestChannel,
    GuestConfiguration,
    GuestControlError,
    LineReader,
    Prepare,
    Prepared,
    Ready,
    Revocations,
    Stop,
    Wake,
    decode_command,
    decode_configuration,
    decode_event,
    decode_first,
    decode_wake,
    encode_line,
)
from keep_protocol.handover import Configuration

ENTROPY = bytes(range(MIN_ENTROPY))
CONFIGURATION = GuestConfiguration(
    version=GUEST_PROTOCOL_VERSION,
    configuration=Configuration(id="a", deployment="b", spec="{}", domain="c", names=()),
    invocation="d",
    channel=GuestChannel.SERIAL,
)


def test_what_is_said_is_what_is_heard() -> None:
    assert decode_configuration(encode_line(CONFIGURATION)) == CONFIGURATION
    for command in (Stop(), Revocations("lists")):
        assert decode_command(encode_line(command)) == command
    for event in (Alive(), Ready("certificate"), Prepared(), Awake()):
        assert decode_event(encode_line(event)) == event
    for first in (Prepare(), CONFIGURATION):
        assert decode_first(encode_line(first)) == first
    wake = Wake(b64encode(ENTROPY).decode(), 1_700_000_000_000_000_000, CONFIGURATION)
    assert decode_wake(encode_line(wake)) == (wake, ENTROPY)


def test_lines_on_the_wire_are_named_by_what_they_are() -> None:
    assert encode_line(Stop()) == b'{"command":"stop"}\n'
    assert encode_line(Alive()) == b'{"event":"alive"}\n'


def test_another_version_is_refused_with_what_to_do() -> None:
    line = encode_line(msgspec.structs.replace(CONFIGURATION, version=1))
    with pytest.raises(GuestControlError, match="version 1 of the protocol, this image 2: build the image"):
        decode_configuration(line)


@pytest.mark.parametrize("entropy", ["", "AAAA", b64encode(ENTROPY[1:]).decode(), "no base64!" * 8])
def test_a_clone_without_enough_entropy_of_its_own_is_not_woken(entropy: str) -> None:
    with pytest.raises(GuestControlError, match=r"entropy, and got|not usable"):
        decode_wake(encode_line(Wake(entropy, 0, CONFIGURATION)))


def test_a_clone_is_woken_by_the_same_version_alone() -> None:
    other = msgspec.structs.replace(CONFIGURATION, version=1)
    with pytest.raises(GuestControlError, match="version 1 of the protocol"):
        decode_wake(encode_line(Wake(b64encode(ENTROPY).decode(), 0, other)))


def test_a_first_line_that_makes_no_sense_is_refused_as_a_configuration() -> None:
    with pytest.raises(GuestControlError, match="configuration is not usable"):
        decode_first(b'{"command":"stop"}')


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b'{"command":"format"}', b'{"command":"stop","now":true}'])
def test_what_is_no_command_is_refused(line: bytes) -> None:
    with pytest.raises(GuestControlError, match="no known command"):
        decode_command(line)


@pytest.mark.parametrize("line", [b'{"event":"ready"}', b'{"event":"stop"}', b'{"event":"alive","since":1}'])
def test_what_is_no_event_is_refused(line: bytes) -> None:
    with pytest.raises(GuestControlError, match="no known event"):
        decode_event(line)


@pytest.mark.parametrize("pieces", [[b"one\ntwo\nrest"], [b"o", b"ne", b"\n", b"two\nre", b"st"]])
def test_lines_come_out_whole_however_they_came_in(pieces: list[bytes]) -> None:
    reader = LineReader()
    assert [line for piece in pieces for line in reader.feed(piece)] == [b"one", b"two"]
    assert reader.feed(b"\n") == [b"rest"]


@pytest.mark.parametrize("data", [b"12345", b"12345\n", b"1\n12345\n1\n"])
def test_a_line_beyond_the_limit_is_refused_with_or_without_its_end(data: bytes) -> None:
    with pytest.raises(GuestControlError, match="more than 4 bytes"):
        LineReader(limit=4).feed(data)
