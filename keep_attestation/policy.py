"""What a verifier accepts: per kind, alternatives of reference values and demands; as TOML or in Python."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeAlias

import msgspec

from keep_attestation.azure.policy import AzurePolicy
from keep_attestation.errors import PolicyError
from keep_attestation.nitro.policy import NitroPolicy
from keep_attestation.policy_names import suggestion
from keep_attestation.ratls.policy import CertificatePolicy
from keep_attestation.rules import Facts, Rule
from keep_attestation.sgx.policy import SgxPolicy
from keep_attestation.simulated.policy import SimulatedPolicy
from keep_attestation.snp.policy import SnpPolicy
from keep_attestation.tdx.policy import TdxPolicy
from keep_attestation.tpm.policy import TpmPolicy
from keep_attestation.verdict import Check, Outcome
from keep_protocol.evidence import EvidenceKind

MAX_POLICY_SIZE = 1024 * 1024


class KindPolicy(Protocol):
    """One alternative for one kind of evidence."""

    def rules(self) -> tuple[Rule, ...]: ...


_Name: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename="kebab"):
    """All that somebody accepts. Evidence of a kind without an alternative here is refused before it is parsed.

    In TOML each kind is a table (`[snp]`), or several alternatives (`[[snp]]`), of which one must accept.
    """

    name: _Name = "unnamed"
    snp: tuple[SnpPolicy, ...] = ()
    tdx: tuple[TdxPolicy, ...] = ()
    sgx: tuple[SgxPolicy, ...] = ()
    nitro: tuple[NitroPolicy, ...] = ()
    tpm: tuple[TpmPolicy, ...] = ()
    azure_snp: tuple[AzurePolicy, ...] = ()
    azure_tdx: tuple[AzurePolicy, ...] = ()
    simulated: tuple[SimulatedPolicy, ...] = ()
    certificate: CertificatePolicy = CertificatePolicy()
    """What is demanded of certificates that bear evidence, whatever the kind."""

    def alternatives(self, kind: EvidenceKind) -> tuple[KindPolicy, ...]:
        found: tuple[KindPolicy, ...] = getattr(self, kind.value.replace("-", "_"))
        return found

    def only(self, kind: EvidenceKind) -> Policy:
        """The same for one kind, with every other refused."""
        fields: dict[str, Any] = {kind.value.replace("-", "_"): self.alternatives(kind)}
        return Policy(name=self.name, certificate=self.certificate, **fields)

    @property
    def kinds(self) -> frozenset[EvidenceKind]:
        return frozenset(kind for kind in EvidenceKind if self.alternatives(kind))

    @property
    def digest(self) -> str:
        """SHA-256 over every field, in hex: changes when anything in the policy does."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()

    def appraise(self, kind: EvidenceKind, facts: Facts) -> tuple[Check, ...]:
        """The checks of the first alternative that accepts; of all of them, numbered, if none does."""
        alternatives = self.alternatives(kind)
        if not alternatives:
            return (refused_kind(self, kind),)
        refusals: list[Check] = []
        for number, alternative in enumerate(alternatives, 1):
            checks = tuple(rule.check(facts) for rule in alternative.rules())
            if checks and all(check.outcome is not Outcome.FAIL for check in checks):
                return checks
            if len(alternatives) == 1:
                return checks or (Check(f"{kind}.policy", Outcome.FAIL, "the policy demands nothing of this kind"),)
            refusals += (
                Check(f"{check.name} (alternative {number})", check.outcome, check.reason)
                for check in checks
                if check.outcome is Outcome.FAIL
            )
        return tuple(refusals)


def refused_kind(policy: Policy, kind: EvidenceKind) -> Check:
    reason = f"the policy {policy.name!r} does not accept {kind} evidence: it has no table [{kind}]"
    # What `only` has left out is nothing to speak of.
    others = ", ".join(f"[{other}]" for other in sorted(policy.kinds))
    return Check("policy.kind", Outcome.FAIL, f"{reason}, but {others}" if others else reason)


def parse_policy(text: str) -> Policy:
    """The policy in TOML. Raises `PolicyError`, which names the field."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(f"the policy is not TOML: {error}") from None
    return policy_from(document)


def policy_from(document: dict[str, Any]) -> Policy:
    """The policy in a parsed TOML document. Raises `PolicyError`."""
    kinds = {kind.value for kind in EvidenceKind}
    fields = {key: (value,) if key in kinds and isinstance(value, dict) else value for key, value in document.items()}
    try:
        policy = msgspec.convert(fields, Policy)
    except msgspec.ValidationError as error:
        raise PolicyError(f"the policy is not usable: {error}{suggestion(str(error), Policy)}") from None
    if not policy.kinds:
        raise PolicyError(f"the policy accepts nothing: it needs a table of a kind, one of {', '.join(sorted(kinds))}")
    return policy


def load_policy(path: Path) -> Policy:
    """The policy in the TOML file `path`. Raises `PolicyError`."""
    try:
        if path.stat().st_size > MAX_POLICY_SIZE:
            raise PolicyError(f"{path} has more than {MAX_POLICY_SIZE} bytes")
        return parse_policy(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"the policy {path} cannot be read: {error}") from None
    except PolicyError as error:
        raise PolicyError(f"{path}: {error}") from None
