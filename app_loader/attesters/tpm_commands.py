"""TPM 2.0 commands as bytes: what a keep needs for quotes, sealing and counters, without a library.

Source: TPM 2.0 Library, Part 3 (commands), revision 1.59. Nothing is encrypted on the way to the TPM: an interposer on
a discrete TPM's bus reads what is unsealed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from types import TracebackType

from app_loader.attesters.tpm_transport import Transport
from app_loader.attesters.tpm_wire import (
    Algorithm,
    ObjectAttribute,
    PcrSelection,
    Response,
    TpmError,
    pcr_selection,
    response_name,
    sized,
    u16,
    u32,
)

OWNER = 0x4000_0001
NULL = 0x4000_0007
PASSWORD = 0x4000_0009
ENDORSEMENT = 0x4000_000B

_RETRY_CODES = frozenset({0x908, 0x90A, 0x922})
"""TPM_RC_YIELDED, TPM_RC_TESTING, TPM_RC_RETRY: nothing was done; e.g. at first use of a key with a password, of which
a TPM first notes that guesses are to be counted (Part 1, 19.8)."""
_RETRY_PAUSES = (0.0, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32)
"""Seconds before each further attempt."""

_NO_SESSIONS = 0x8001
_SESSIONS = 0x8002

_COUNTER_ATTRIBUTES = 1 << 2 | 1 << 4 | 1 << 18 | 1 << 25
"""TPMA_NV: AUTHWRITE, the type TPM_NT_COUNTER, AUTHREAD, NO_DA."""


class _Command(IntEnum):
    NV_UNDEFINE_SPACE = 0x122
    NV_DEFINE_SPACE = 0x12A
    CREATE_PRIMARY = 0x131
    NV_INCREMENT = 0x134
    ACTIVATE_CREDENTIAL = 0x147
    NV_READ = 0x14E
    POLICY_SECRET = 0x151
    CREATE = 0x153
    LOAD = 0x157
    QUOTE = 0x158
    UNSEAL = 0x15E
    FLUSH_CONTEXT = 0x165
    NV_READ_PUBLIC = 0x169
    READ_PUBLIC = 0x173
    START_AUTH_SESSION = 0x176
    GET_RANDOM = 0x17B
    PCR_READ = 0x17E
    POLICY_PCR = 0x17F
    PCR_EXTEND = 0x182
    POLICY_GET_DIGEST = 0x189


@dataclass(frozen=True, slots=True)
class CreatedObject:
    """What TPM2_Create gives; both parts are needed to load it again, neither is secret."""

    private: bytes
    """TPM2B_PRIVATE without its length: encrypted by the parent."""
    public: bytes
    """TPMT_PUBLIC."""


@dataclass(frozen=True, slots=True)
class Authorisation:
    """One entry of a command's authorisation area: a password, or a policy session that needs none."""

    session: int
    auth: bytes = b""

    @property
    def encoded(self) -> bytes:
        # continueSession: a policy session outlives the command, so that flushing it is always right.
        attributes = 0 if self.session == PASSWORD else 1
        return u32(self.session) + sized(b"") + bytes([attributes]) + sized(self.auth)


def password(auth: bytes = b"") -> Authorisation:
    return Authorisation(PASSWORD, auth)


class Tpm:
    """One TPM by its commands. Every method raises `TpmError`, and `OSError` when the way to it is broken."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def __enter__(self) -> Tpm:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._transport.close()

    def random(self, size: int) -> bytes:
        """At most 32 bytes; a TPM may give fewer."""
        return self._run(_Command.GET_RANDOM, parameters=u16(size)).sized()

    def create_primary(self, hierarchy: int, template: bytes) -> tuple[int, bytes]:
        """Handle and TPMT_PUBLIC of the key that the hierarchy's seed and `template` (TPMT_PUBLIC) determine."""
        parameters = sized(sized(b"") + sized(b"")) + sized(template) + sized(b"") + u32(0)
        response = self._run(_Command.CREATE_PRIMARY, (hierarchy,), parameters, (password(),), returns_handle=True)
        return response.handle, response.sized()

    def read_public(self, handle: int) -> tuple[bytes, bytes]:
        """TPMT_PUBLIC and name of a loaded object."""
        response = self._run(_Command.READ_PUBLIC, (handle,))
        return response.sized(), response.sized()

    def flush(self, handle: int) -> None:
        """Unload an object or a session. A TPM has room for three of each; swtpm has no resource manager."""
        self._run(_Command.FLUSH_CONTEXT, parameters=u32(handle))

    def quote(self, key: int, qualifying_data: bytes, selection: PcrSelection) -> tuple[bytes, bytes]:
        """TPMS_ATTEST and TPMT_SIGNATURE over the selected PCRs, by the key's own scheme."""
        parameters = sized(qualifying_data) + u16(Algorithm.NULL) + pcr_selection(selection)
        response = self._run(_Command.QUOTE, (key,), parameters, (password(),))
        return response.sized(), response.rest()

    def read_pcrs(self, algorithm: int, registers: Iterable[int]) -> dict[int, bytes]:
        """Values by number; a bank that the TPM does not have raises `TpmError`."""
        wanted = sorted(set(registers))
        values: dict[int, bytes] = {}
        # One response holds eight digests.
        while missing := [register for register in wanted if register not in values]:
            response = self._run(_Command.PCR_READ, parameters=pcr_selection({algorithm: missing}))
            response.take(4)  # pcrUpdateCounter
            read = response.selection().get(algorithm, ())
            digests = [response.sized() for _ in range(response.integer(4))]
            if not digests or len(digests) != len(read) or not set(read) <= set(missing):
                raise TpmError(f"the TPM has no PCR {missing[0]} in the bank of algorithm {algorithm:#06x}")
            values.update(zip(read, digests, strict=True))
        return values

    def extend_pcr(self, register: int, digests: Mapping[int, bytes]) -> None:
        """Extend one PCR with a digest for each bank, by TPM_ALG_ID."""
        values = b"".join(u16(algorithm) + digest for algorithm, digest in sorted(digests.items()))
        self._run(_Command.PCR_EXTEND, (register,), u32(len(digests)) + values, (password(),))

    def read_nv(self, index: int, auth: bytes = b"") -> bytes:
        """The whole content of an NV index that may be read with its own `auth`."""
        size = self._nv_size(index)
        content = b""
        while len(content) < size:
            # 512: the least that TPM_PT_NV_BUFFER_MAX is on any TPM in use.
            parameters = u16(min(512, size - len(content))) + u16(len(content))
            response = self._run(_Command.NV_READ, (index, index), parameters, (password(auth),))
            piece = response.sized()
            if not piece:
                raise TpmError(f"the TPM reads nothing from NV index {index:#010x}")
            content += piece
        return content

    def define_counter(self, index: int, auth: bytes = b"", *, owner_auth: bytes = b"") -> None:
        """Make an NV counter of 64 bits; it begins above every counter that this TPM ever had, at its first increment.

        Who knows `auth` increments and reads it; who has the owner's authorisation can remove it, never set it back.
        """
        public = u32(index) + u16(Algorithm.SHA256) + u32(_COUNTER_ATTRIBUTES) + sized(b"") + u16(8)
        self._run(_Command.NV_DEFINE_SPACE, (OWNER,), sized(auth) + sized(public), (password(owner_auth),))

    def increment_counter(self, index: int, auth: bytes = b"") -> None:
        self._run(_Command.NV_INCREMENT, (index, index), b"", (password(auth),))

    def read_counter(self, index: int, auth: bytes = b"") -> int:
        """Raises `TpmError` (TPM_RC_NV_UNINITIALIZED) before the first increment."""
        return int.from_bytes(self.read_nv(index, auth), "big")

    def remove_nv(self, index: int, *, owner_auth: bytes = b"") -> None:
        self._run(_Command.NV_UNDEFINE_SPACE, (OWNER, index), b"", (password(owner_auth),))

    def activate_credential(self, key: int, endorsement_key: int, blob: bytes, encrypted_secret: bytes) -> bytes:
        """The secret in a credential that was made for the loaded `key` and `endorsement_key` (Part 3, 12.5).

        `blob` is TPMS_ID_OBJECT, `encrypted_secret` the content of TPM2B_ENCRYPTED_SECRET. The endorsement key's policy
        is PolicySecret of the endorsement hierarchy, which has no password.
        """
        policy = self.start_policy_session()
        try:
            self.policy_secret(policy, ENDORSEMENT)
            response = self._run(
                _Command.ACTIVATE_CREDENTIAL,
                (key, endorsement_key),
                sized(blob) + sized(encrypted_secret),
                (password(), Authorisation(policy)),
            )
            return response.sized()
        finally:
            self.flush(policy)

    def start_policy_session(self, *, trial: bool = False) -> int:
        """The handle of a session with SHA-256; a trial session computes a policy's digest and authorises nothing."""
        parameters = sized(os.urandom(16)) + sized(b"") + bytes([3 if trial else 1]) + u16(Algorithm.NULL)
        response = self._run(
            _Command.START_AUTH_SESSION, (NULL, NULL), parameters + u16(Algorithm.SHA256), returns_handle=True
        )
        return response.handle

    def policy_secret(self, session: int, hierarchy: int) -> None:
        parameters = sized(b"") + sized(b"") + sized(b"") + u32(0)
        self._run(_Command.POLICY_SECRET, (hierarchy, session), parameters, (password(),))

    def policy_pcr(self, session: int, selection: PcrSelection) -> None:
        """Demand the PCRs as they are now."""
        self._run(_Command.POLICY_PCR, (session,), sized(b"") + pcr_selection(selection))

    def policy_digest(self, session: int) -> bytes:
        return self._run(_Command.POLICY_GET_DIGEST, (session,)).sized()

    def pcr_policy(self, selection: PcrSelection) -> bytes:
        """The digest of the policy that demands the PCRs as they are now."""
        trial = self.start_policy_session(trial=True)
        try:
            self.policy_pcr(trial, selection)
            return self.policy_digest(trial)
        finally:
            self.flush(trial)

    def seal(self, parent: int, secret: bytes, policy: bytes) -> CreatedObject:
        """`secret` (at most 128 bytes) encrypted by `parent`; unsealed under `policy` alone, no password does it."""
        attributes = ObjectAttribute.FIXED_TPM | ObjectAttribute.FIXED_PARENT
        template = (
            u16(Algorithm.KEYEDHASH)
            + u16(Algorithm.SHA256)
            + u32(attributes)
            + sized(policy)
            + u16(Algorithm.NULL)
            + sized(b"")
        )
        sensitive = sized(sized(b"") + sized(secret))
        parameters = sensitive + sized(template) + sized(b"") + u32(0)
        response = self._run(_Command.CREATE, (parent,), parameters, (password(),))
        return CreatedObject(response.sized(), response.sized())

    def load(self, parent: int, created: CreatedObject) -> int:
        """The handle of an object that was made under `parent`."""
        parameters = sized(created.private) + sized(created.public)
        return self._run(_Command.LOAD, (parent,), parameters, (password(),), returns_handle=True).handle

    def unseal(self, sealed: int, selection: PcrSelection) -> bytes:
        """The secret in a loaded object, of which the policy is `pcr_policy` of the same selection."""
        session = self.start_policy_session()
        try:
            self.policy_pcr(session, selection)
            return self._run(_Command.UNSEAL, (sealed,), b"", (Authorisation(session),)).sized()
        finally:
            self.flush(session)

    def _nv_size(self, index: int) -> int:
        public = Response(self._run(_Command.NV_READ_PUBLIC, (index,)).sized())
        public.take(4 + 2 + 4)  # nvIndex, nameAlg, attributes
        public.sized()  # authPolicy
        return public.integer(2)

    def _run(
        self,
        command: _Command,
        handles: Sequence[int] = (),
        parameters: bytes = b"",
        authorisations: Sequence[Authorisation] = (),
        *,
        returns_handle: bool = False,
    ) -> Response:
        body = b"".join(map(u32, handles))
        if authorisations:
            area = b"".join(authorisation.encoded for authorisation in authorisations)
            body += u32(len(area)) + area
        tag = _SESSIONS if authorisations else _NO_SESSIONS
        request = u16(tag) + u32(10 + len(body + parameters)) + u32(command) + body + parameters
        for pause in (*_RETRY_PAUSES, None):
            raw = self._transport.transmit(request)
            response = Response(raw)
            response_tag, size, code = response.integer(2), response.integer(4), response.integer(4)
            if code not in _RETRY_CODES or pause is None:
                break
            time.sleep(pause)
        if code:
            raise TpmError(f"TPM2_{command.name}: {response_name(code)} ({code:#05x})", code)
        if response_tag != tag or size != len(raw):
            raise TpmError(f"TPM2_{command.name}: the response's header does not fit it")
        response.handle = response.integer(4) if returns_handle else 0
        # With sessions the parameters have a length, and what follows them acknowledges the sessions.
        return Response(response.take(response.integer(4)), response.handle) if authorisations else response
