"""Keeps fetched endorsements on disk, for as long as their issuer says that they are current."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import msgspec

from keep_attestation.certificates import read_certificates, read_crl
from keep_attestation.endorsement_sources.interface import EndorsementNotFoundError, Fetch, Fetched
from keep_attestation.errors import EndorsementsError, MalformedEvidenceError


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    url: str
    fetched_at: Annotated[datetime, msgspec.Meta(tz=True)]
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)]
    headers: Mapping[str, str]
    body: bytes


class CachingFetch:
    """A `Fetch` that asks `fetch` only for what `folder` has not, by URL.

    What may be revoked meanwhile (CRLs, Intel's collateral) is asked for again after `max_age`, and kept in use until
    its nextUpdate only while the service cannot be reached. Certificates stay until they expire. Answers that say
    neither are kept for `max_age`. Entries are written whole or not at all; ones that cannot be read count as absent.
    """

    def __init__(
        self,
        fetch: Fetch,
        folder: Path,
        *,
        max_age: timedelta = timedelta(days=1),
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._fetch = fetch
        self._folder = folder
        self._max_age = max_age
        self._clock = clock

    def __call__(self, url: str) -> Fetched:
        now = self._clock()
        path = self._folder / f"{hashlib.sha256(url.encode()).hexdigest()}.json"
        entry = _load(path, url)
        # fetched_at in the future: the clock was set back, so the entry's age is not known.
        if entry is not None and not entry.fetched_at <= now < entry.expires_at:
            entry = None
        if entry is not None and (now - entry.fetched_at < self._max_age or _is_certificate(entry.body)):
            return Fetched(entry.body, entry.headers)
        try:
            fetched = self._fetch(url)
        except EndorsementNotFoundError:
            raise
        except EndorsementsError:
            if entry is None:
                raise
            return Fetched(entry.body, entry.headers)
        expires_at = end_of_use(fetched.body) or now + self._max_age
        if now < expires_at:
            self._store(path, _Entry(url, now, expires_at, fetched.headers, fetched.body))
        return fetched

    def _store(self, path: Path, entry: _Entry) -> None:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=self._folder, prefix=".new-")
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(msgspec.json.encode(entry))
                os.replace(temporary, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise
        except OSError as error:
            raise EndorsementsError(f"the cache {self._folder} cannot be written: {error.strerror}") from None


def end_of_use(body: bytes) -> datetime | None:
    """When what was fetched is no longer current: the first nextUpdate or end of validity in it; None if it says none.

    Understands certificates (DER, PEM), CRLs (DER) and Intel's signed JSON.
    """
    try:
        return min(certificate.not_after for certificate in read_certificates(body))
    except MalformedEvidenceError:
        pass
    try:
        return read_crl(body).next_update
    except MalformedEvidenceError:
        pass
    try:
        members = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        return min(
            msgspec.json.decode(members[name], type=_Dated).next_update
            for name in ("tcbInfo", "enclaveIdentity")
            if name in members
        )
    except (ValueError, RecursionError):
        return None


class _Dated(msgspec.Struct, frozen=True):
    next_update: Annotated[datetime, msgspec.Meta(tz=True)] = msgspec.field(name="nextUpdate")


def _is_certificate(body: bytes) -> bool:
    try:
        return bool(read_certificates(body))
    except MalformedEvidenceError:
        return False


def _load(path: Path, url: str) -> _Entry | None:
    try:
        entry = msgspec.json.decode(path.read_bytes(), type=_Entry)
    except (OSError, ValueError, RecursionError):
        return None
    return entry if entry.url == url else None
