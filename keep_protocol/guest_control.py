"""What a host and the init of its virtual machine tell each other: lines of JSON on a virtio-serial port.

The host is believed in nothing that a client relies on: the digest of the spec that it hands over is bound into
evidence, and everything else decides only how the keep is reached and for how long it lives.
"""

from __future__ import annotations

import binascii
from typing import Final

import msgspec

from keep_protocol.handover import Configuration
from keep_protocol.states import GuestChannel as GuestChannel

CONTROL_PORT: Final = "org.wasmkeep.control"
"""The virtio-serial port of these lines."""
VSOCK_PORT: Final = 4433
"""Where the keep listens for its clients when the machine has a vsock."""
GUEST_PROTOCOL_VERSION: Final = 2
MAX_LINE: Final = 16 * 1024 * 1024
"""Bytes of one line; revocation lists are what may be long."""

SPEC_PCR: Final = 11
"""The PCR that a machine with a TPM extends with the spec's digest before it does anything with the spec."""

ENCLAVE_SPEC_PCR: Final = 16
"""The same in a Nitro enclave: the first of the PCRs that are the enclave's own."""


class GuestConfiguration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first line, from the host."""

    version: int
    configuration: Configuration
    invocation: str
    channel: GuestChannel
    disk: bool = False
    """Whether the machine has a disk for the keep's state; without one it ends with the machine."""
    revocation_lists: str = ""
    """The host's lists in PEM, as `client-crl.pem` holds them; empty: none."""


class Stop(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="stop", tag_field="command"):
    """End the keep in good order and power the machine off."""


class Revocations(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="revocations", tag_field="command"):
    """The host's revocation lists have changed."""

    revocation_lists: str
    """PEM."""


class Prepare(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="prepare", tag_field="command"):
    """The first line for a machine that is to be a template: get everything ready that is no keep's own, and wait."""


class Wake(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="wake", tag_field="command"):
    """The first line for a clone of a template, which has all that the template had, its random state and clock too."""

    entropy: str
    """At least `MIN_ENTROPY` bytes that no other clone gets, in base64."""
    clock: int
    """Nanoseconds since 1970."""
    configuration: GuestConfiguration


class Ready(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="ready", tag_field="event"):
    """The keep accepts connections."""

    certificate: str
    """PEM."""


class Published(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="published", tag_field="event"):
    """The keep has renewed its certificate."""

    certificate: str
    """PEM."""


class Alive(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="alive", tag_field="event"):
    """The app-loader's event loop turns; sent every `ALIVE_SECONDS`."""


class Failed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="failed", tag_field="event"):
    """The keep could not start, or has ended by itself; the machine powers off."""

    reason: str


class Stopped(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="stopped", tag_field="event"):
    """The keep has ended in good order, as it was told to; the machine powers off."""


class Prepared(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="prepared", tag_field="event"):
    """The machine can be frozen now and be a template: it has no identity, and does nothing until it is woken."""


class Awake(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="awake", tag_field="event"):
    """The clone has taken its own entropy and time, and becomes its keep now."""


ALIVE_SECONDS: Final = 2.0

MIN_ENTROPY: Final = 32

Command = Stop | Revocations
GuestEvent = Ready | Published | Alive | Failed | Stopped | Prepared | Awake

_encoder = msgspec.json.Encoder()
_commands: msgspec.json.Decoder[Command] = msgspec.json.Decoder(Command)
_events: msgspec.json.Decoder[GuestEvent] = msgspec.json.Decoder(GuestEvent)
_configuration = msgspec.json.Decoder(GuestConfiguration)
_prepare = msgspec.json.Decoder(Prepare)
_wake = msgspec.json.Decoder(Wake)


class GuestControlError(Exception):
    """A line on the control port is too long, or not what the protocol has there."""


def encode_line(message: GuestConfiguration | Prepare | Wake | Command | GuestEvent) -> bytes:
    """One message with its newline."""
    return _encoder.encode(message) + b"\n"


def decode_configuration(line: bytes) -> GuestConfiguration:
    """The host's first line. Raises `GuestControlError`."""
    try:
        configuration = _configuration.decode(line)
    except msgspec.DecodeError as error:
        raise GuestControlError(f"the configuration is not usable: {error}") from None
    _check_version(configuration)
    return configuration


def decode_first(line: bytes) -> GuestConfiguration | Prepare:
    """The host's first line to a machine that has just booted. Raises `GuestControlError`."""
    try:
        return _prepare.decode(line)
    except msgspec.DecodeError:
        return decode_configuration(line)


def decode_wake(line: bytes) -> tuple[Wake, bytes]:
    """The host's first line to a clone, and the entropy in it. Raises `GuestControlError`."""
    try:
        wake = _wake.decode(line)
        entropy = binascii.a2b_base64(wake.entropy, strict_mode=True)
    except (msgspec.DecodeError, binascii.Error) as error:
        raise GuestControlError(f"what wakes the clone is not usable: {error}") from None
    if len(entropy) < MIN_ENTROPY:
        raise GuestControlError(f"a clone needs {MIN_ENTROPY} bytes of entropy, and got {len(entropy)}")
    _check_version(wake.configuration)
    return wake, entropy


def _check_version(configuration: GuestConfiguration) -> None:
    if configuration.version != GUEST_PROTOCOL_VERSION:
        raise GuestControlError(
            f"the host speaks version {configuration.version} of the protocol, this image {GUEST_PROTOCOL_VERSION}: "
            "build the image with the same wasmkeep as the host's"
        )


def decode_command(line: bytes) -> Command:
    """A further line of the host's. Raises `GuestControlError`."""
    try:
        return _commands.decode(line)
    except msgspec.DecodeError as error:
        raise GuestControlError(f"no known command: {error}") from None


def decode_event(line: bytes) -> GuestEvent:
    """A line of the guest's. Raises `GuestControlError`."""
    try:
        return _events.decode(line)
    except msgspec.DecodeError as error:
        raise GuestControlError(f"no known event: {error}") from None


class LineReader:
    """Bytes of a port become lines."""

    def __init__(self, limit: int = MAX_LINE) -> None:
        self._limit = limit
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are whole now, without their newlines. Raises `GuestControlError` for one that is too long."""
        self._rest += data
        lines: list[bytes] = []
        if b"\n" in data:
            *lines, rest = bytes(self._rest).split(b"\n")
            self._rest = bytearray(rest)
        if len(self._rest) > self._limit or any(len(line) > self._limit for line in lines):
            raise GuestControlError(f"a line has more than {self._limit} bytes")
        return lines
