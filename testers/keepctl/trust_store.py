"""What is known of keeps that prove themselves: the spec that was asked for, and the policy that they must satisfy.

One file per keep, kept by the client: it is what catches a host that swaps a spec or a manager that denies evidence.
"""

from __future__ import annotations

import os
import secrets
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from keep_client import InvalidArgumentError
from keep_protocol.evidence import EvidenceKind
from keep_protocol.names import is_keep_id
from testers.deployment import Deployment

if TYPE_CHECKING:
    from keep_attestation.policy import Policy

_ABOUT = """\
# What keepctl demands of this keep on every connection. Written by `keepctl create`, `run` or `trust`; remove the file
# to forget it. The policy is as `keepctl policy init` writes it, in a table of its own.
"""


class TrustedKeep(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename="kebab"):
    """One file of the store."""

    keep: str
    """Its id: another keep is never taken for it."""
    name: str
    evidence: EvidenceKind | None = None
    """The kind that we asked for; evidence of another is none."""
    spec_digest: str | None = None
    """SHA-256 in hex, of the spec that we wrote, or that was there when somebody looked."""
    policy: dict[str, Any] | None = None
    """As in a policy file; None until one is given."""

    def load_policy(self) -> Policy | None:
        """Raises `InvalidArgumentError`."""
        if self.policy is None:
            return None
        from keep_attestation.errors import PolicyError
        from keep_attestation.policy import policy_from

        try:
            return policy_from(self.policy)
        except PolicyError as error:
            raise InvalidArgumentError(f"the policy for keep {self.keep} in the trust store: {error}") from None


class TrustStore:
    """The folder `trust` of a home, or `$XDG_DATA_HOME/wasmkeep/trust`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def of(cls, deployment: Deployment) -> TrustStore:
        if deployment.home is not None:
            return cls(deployment.home / "trust")
        data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
        return cls(Path(data) / "wasmkeep" / "trust")

    def find(self, ref: str) -> TrustedKeep | None:
        """What is known of the keep with this id or name. Raises `InvalidArgumentError` for a file that is broken."""
        if is_keep_id(ref) and (known := self._read(self._path(ref))) is not None:
            return known
        return self.named(ref)

    def named(self, name: str) -> TrustedKeep | None:
        """What is known of the one keep with this name. Raises `InvalidArgumentError` if there are several."""
        found = [known for known in self._all() if known.name == name]
        if len(found) > 1:
            ids = ", ".join(known.keep for known in found)
            raise InvalidArgumentError(f"{name!a} is the name of several keeps in {self.folder}: {ids}; give the id")
        return found[0] if found else None

    def write(self, known: TrustedKeep) -> Path:
        """Remember, in place of what was known; returns the file."""
        from testers.keepctl.attestation.toml_text import toml_document

        path = self._path(known.keep)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        document = msgspec.to_builtins(known)
        text = _ABOUT + toml_document({name: item for name, item in document.items() if item is not None})
        # Beside it and renamed: a crash leaves the old file, never half of one.
        temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        temporary.replace(path)
        return path

    def forget(self, keep: str) -> None:
        """Remove what is known of a keep that is no more."""
        if is_keep_id(keep):
            self._path(keep).unlink(missing_ok=True)

    def _path(self, keep: str) -> Path:
        # The id is the manager's word, and becomes the name of a file.
        if not is_keep_id(keep):
            raise InvalidArgumentError(f"{keep!a} is no id of a keep")
        return self.folder / f"{keep}.toml"

    def _all(self) -> Iterator[TrustedKeep]:
        if self.folder.is_dir():
            for path in sorted(self.folder.glob("*.toml")):
                if (known := self._read(path)) is not None:
                    yield known

    def _read(self, path: Path) -> TrustedKeep | None:
        try:
            return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), TrustedKeep)
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
            # Passing it over would mean to trust without it.
            raise InvalidArgumentError(f"{path} cannot be used: {error}; remove it, or repair it") from None


def policy_table(path: Path) -> dict[str, Any]:
    """A policy file as the store keeps it, checked. Raises `InvalidArgumentError`."""
    from keep_attestation.errors import PolicyError
    from keep_attestation.policy import MAX_POLICY_SIZE, policy_from

    try:
        # Read once: what is checked is what is kept, be it a pipe.
        with path.open("rb") as file:
            content = file.read(MAX_POLICY_SIZE + 1)
        if len(content) > MAX_POLICY_SIZE:
            raise InvalidArgumentError(f"{path} has more than {MAX_POLICY_SIZE} bytes")
        table = tomllib.loads(content.decode())
        policy_from(table)
    except OSError as error:
        raise InvalidArgumentError(f"the policy {path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, PolicyError) as error:
        raise InvalidArgumentError(f"{path}: {error}") from None
    return table


def policy_from_file(path: Path) -> Policy:
    """Raises `InvalidArgumentError`."""
    from keep_attestation.errors import PolicyError
    from keep_attestation.policy import load_policy

    try:
        return load_policy(path)
    except PolicyError as error:
        raise InvalidArgumentError(str(error)) from None
