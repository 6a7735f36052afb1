"""A policy in words, and what two policies differ in: by the rules that they come down to."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from keep_attestation.azure.policy import NoHardwarePolicy, Within
from keep_attestation.nitro.policy import RegisterOneOf
from keep_attestation.policy import KindPolicy, Policy
from keep_attestation.ratls.policy import CertificatePolicy
from keep_attestation.rules import AllOf, AnyOf, AtLeast, AtMost, Equals, OneOf, Rule
from keep_attestation.snp.products import Processor
from keep_attestation.snp.rules import ChipAllowed, EndorsementKeyAllowed, TcbAtLeast
from keep_attestation.tpm.policy import KnownKey, NoReference, PcrOneOf
from keep_protocol.evidence import EvidenceKind
from testers.keepctl.attestation.field_documentation import field_documentation

_HIGHEST: Final = {
    "max_lifetime_hours": "the certificate's lifetime in hours",
    "max_evidence_age_hours": "the age of claims in it, in hours,",
    "clock_skew_seconds": "the difference of both clocks in seconds",
}


@dataclass(frozen=True, slots=True)
class Demand:
    """One rule, flat: what it is about, and what it allows."""

    check_name: str
    about: str
    """The fact that is judged; empty for rules over several."""
    rule: Rule

    @property
    def words(self) -> str:
        match self.rule:
            case OneOf(allowed=allowed) | RegisterOneOf(allowed=allowed) | PcrOneOf(allowed=allowed):
                return f"{self.about} is {_one_of(allowed)}"
            case Equals(value=value):
                return f"{self.about} is {_shown(value)}"
            case AtLeast(minimum=minimum):
                return f"{self.about} is at least {minimum}"
            case AtMost(maximum=maximum):
                return f"{self.about} is at most {maximum}"
            case AnyOf(rules=rules):
                return " or ".join(demand.words for demand in demands(rules))
            case AllOf(rules=rules):
                return " and ".join(demand.words for demand in demands(rules))
            case TcbAtLeast(tcb=tcb, minimum=minimum):
                if not minimum:
                    return f"{tcb} is not judged: there is no minimum"
                return f"{tcb} is at least {'; '.join(f'{name}: {_levels(each)}' for name, each in minimum.items())}"
            case rule:
                fields = {name: value for name, value in _fields(rule).items() if name != "check_name"}
                settings = ", ".join(f"{name.replace('_', ' ')} {_shown(value)}" for name, value in fields.items())
                return (_sentence(rule) + (f" ({settings})" if settings else "")).rstrip()


def demands(rules: Iterable[Rule]) -> Iterator[Demand]:
    """The rules with what they are about, in their order."""
    for rule in rules:
        inner, prefix = (rule.rule, f"{rule.part}: ") if isinstance(rule, Within) else (rule, "")
        fields = _fields(inner)
        match inner:
            case RegisterOneOf(index=index):
                name, about = inner.check_name or f"nitro.pcr{index}", f"PCR {index}"
            case PcrOneOf(bank=bank, register=register, kind=kind):
                name, about = f"{kind}.pcr{register}", f"PCR {register} ({bank})"
            case KnownKey():
                name, about = "tpm.trust", ""
            case NoReference(kind=kind):
                name, about = f"{kind}.pcrs", ""
            case NoHardwarePolicy():
                name, about = "azure.hardware", ""
            case _:
                name = str(fields.get("check_name", type(inner).__name__))
                about = str(fields.get("fact", fields.get("tcb", "")))
        yield Demand(name, prefix + about, inner)


def explanation(policy: Policy) -> list[str]:
    """Every demand, and what is refused or not looked at because a field was left out."""
    lines = [f"policy {policy.name!r}, digest {policy.digest}"]
    refused = [kind.value for kind in EvidenceKind if kind not in policy.kinds]
    lines.append(f"refused before they are parsed: {', '.join(refused) or 'no kinds'}")
    for kind in EvidenceKind:
        for number, alternative in enumerate(policy.alternatives(kind), 1):
            several = len(policy.alternatives(kind)) > 1
            lines += ["", f"{kind} evidence is accepted if{f' (alternative {number})' if several else ''}"]
            lines.append(
                "  it is genuine, unchanged, within its validity, not revoked, and bound to what was demanded, and"
            )
            lines += [f"  {demand.check_name.ljust(30)} {demand.words}" for demand in demands(alternative.rules())]
            if kind is EvidenceKind.SIMULATED:
                lines.append("  Anybody can make simulated evidence: this alternative protects nothing.")
            lines += _left_out(alternative)
    certificate = policy.certificate
    return [*lines, "", "certificates that bear evidence are accepted if", *(f"  {each}" for each in _of(certificate))]


@dataclass(frozen=True, slots=True)
class Difference:
    """What changes from one policy to another."""

    wider: tuple[str, ...]
    """What the second accepts and the first does not."""
    narrower: tuple[str, ...]
    changed: tuple[str, ...]
    """What cannot be said to be either."""


def difference(first: Policy, second: Policy) -> Difference:
    """What `second` accepts that `first` does not, and the other way round."""
    wider: list[str] = []
    narrower: list[str] = []
    changed: list[str] = []
    for kind in EvidenceKind:
        before, after = first.alternatives(kind), second.alternatives(kind)
        only_before = [each for each in before if each not in after]
        only_after = [each for each in after if each not in before]
        for old, new in zip(only_before, only_after, strict=False):
            _compare(kind, old, new, wider, narrower, changed)
        for each in only_before[len(only_after) :]:
            narrower.append(_whole(kind, each, bool(after)))
        for each in only_after[len(only_before) :]:
            wider.append(_whole(kind, each, bool(before)))
    _compare_certificates(first.certificate, second.certificate, wider, narrower)
    return Difference(tuple(wider), tuple(narrower), tuple(changed))


def _of(certificate: CertificatePolicy) -> Iterator[str]:
    """What is demanded of certificates, in words."""
    yield f"{'accept'.ljust(30)} evidence comes by {' or '.join(sorted(certificate.accept))}"
    yield f"{'key_types'.ljust(30)} the key is {' or '.join(sorted(certificate.key_types))}"
    for field, words in _HIGHEST.items():
        yield f"{field.ljust(30)} {words} is at most {getattr(certificate, field)}"


def _compare_certificates(
    old: CertificatePolicy, new: CertificatePolicy, wider: list[str], narrower: list[str]
) -> None:
    for what, then, now in (
        ("evidence by", old.accept, new.accept),
        ("keys of type", old.key_types, new.key_types),
    ):
        wider.extend(f"certificate: {what} {each}" for each in sorted(now - then))
        narrower.extend(f"certificate: {what} {each}" for each in sorted(then - now))
    for field, words in _HIGHEST.items():
        was, is_now = getattr(old, field), getattr(new, field)
        if was != is_now:
            (wider if is_now > was else narrower).append(f"certificate: {words} is at most {is_now} (was: {was})")


def _whole(kind: EvidenceKind, alternative: KindPolicy, others: bool) -> str:
    first = next(demands(alternative.rules()), None)
    words = "" if first is None else f" with {first.words}"
    return f"{kind}: {'a further alternative' if others else 'evidence of this kind'}{words}"


def _compare(
    kind: EvidenceKind,
    old: KindPolicy,
    new: KindPolicy,
    wider: list[str],
    narrower: list[str],
    changed: list[str],
) -> None:
    before = {(each.check_name, each.about): each for each in demands(old.rules())}
    after = {(each.check_name, each.about): each for each in demands(new.rules())}
    for key in dict.fromkeys((*before, *after)):
        then, now = before.get(key), after.get(key)
        if then == now:
            continue
        if now is None and then is not None:
            wider.append(f"{kind}: no longer demanded: {then.words}")
        elif then is None and now is not None:
            narrower.append(f"{kind}: newly demanded: {now.words}")
        elif then is not None and now is not None:
            _compare_demands(kind, then, now, wider, narrower, changed)


def _compare_demands(
    kind: EvidenceKind, then: Demand, now: Demand, wider: list[str], narrower: list[str], changed: list[str]
) -> None:
    match then.rule, now.rule:
        case (
            (OneOf(allowed=old), OneOf(allowed=new))
            | (RegisterOneOf(allowed=old), RegisterOneOf(allowed=new))
            | (PcrOneOf(allowed=old), PcrOneOf(allowed=new))
        ):
            wider.extend(f"{kind}: {now.about} {_shown(value)}" for value in new if value not in old)
            narrower.extend(f"{kind}: {now.about} {_shown(value)}" for value in old if value not in new)
        case (AtLeast(minimum=low), AtLeast(minimum=high)) | (AtMost(maximum=high), AtMost(maximum=low)):
            (narrower if high > low else wider).append(f"{kind}: {now.words} (was: {then.words})")
        case EndorsementKeyAllowed(csp_ids=old), EndorsementKeyAllowed(csp_ids=new):
            wider.extend(f"{kind}: VLEKs of {name}" for name in new if name not in old)
            narrower.extend(f"{kind}: VLEKs of {name}" for name in old if name not in new)
        case ChipAllowed(allow_any_milan=old_any), ChipAllowed(allow_any_milan=new_any) if old_any == new_any:
            _compare_chips(kind, then.rule.chip_ids, now.rule.chip_ids, wider, narrower)
        case TcbAtLeast(), TcbAtLeast():
            _compare_levels(kind, then, now, wider, narrower)
        case _:
            changed.append(f"{kind}: {now.words} (was: {then.words})")


def _compare_chips(
    kind: EvidenceKind, old: Collection[str], new: Collection[str], wider: list[str], narrower: list[str]
) -> None:
    if not old or not new:
        (narrower if new else wider).append(f"{kind}: {'only the chips named' if new else 'chips that are not named'}")
        return
    wider.extend(f"{kind}: chip {chip}" for chip in new if chip not in old)
    narrower.extend(f"{kind}: chip {chip}" for chip in old if chip not in new)


def _compare_levels(kind: EvidenceKind, then: Demand, now: Demand, wider: list[str], narrower: list[str]) -> None:
    assert isinstance(then.rule, TcbAtLeast)
    assert isinstance(now.rule, TcbAtLeast)
    old, new = then.rule.minimum, now.rule.minimum
    if not old or not new:
        (narrower if new else wider).append(f"{kind}: {now.words} (was: {then.words})")
        return
    # As `TcbAtLeast` judges: without levels of their own Bergamo and Siena have Genoa's.
    old, new = (
        {Processor.BERGAMO_SIENA.value: each[Processor.GENOA], **each} if Processor.GENOA in each else each
        for each in (old, new)
    )
    for processor in dict.fromkeys((*old, *new)):
        if processor not in new or processor not in old:
            (wider if processor in new else narrower).append(f"{kind}: {now.about} of a {processor}")
            continue
        for part in dict.fromkeys((*old[processor], *new[processor])):
            was, now_is = old[processor].get(part, 0), new[processor].get(part, 0)
            if was != now_is:
                line = f"{kind}: {now.about} of a {processor}: {part} at least {now_is:#x} (was: {was:#x})"
                (narrower if now_is > was else wider).append(line)


def _left_out(alternative: KindPolicy) -> list[str]:
    assert isinstance(alternative, msgspec.Struct)
    documentation = field_documentation(type(alternative))
    lines = []
    for field in msgspec.structs.fields(type(alternative)):
        value = getattr(alternative, field.name)
        default = field.default if field.default is not msgspec.NODEFAULT else {}
        if value == default and field.name in documentation:
            lines.append(f"  {field.name.ljust(30)} {documentation[field.name]}")
    return ["  left at their defaults:", *lines] if lines else []


def _fields(rule: Rule) -> dict[str, Any]:
    if dataclasses.is_dataclass(rule):
        return {field.name: getattr(rule, field.name) for field in dataclasses.fields(rule)}
    return {}


def _sentence(rule: Rule) -> str:
    text = " ".join((type(rule).__doc__ or type(rule).__name__).split())
    return re.split(r"(?<=[.:;])\s", text)[0].rstrip(".:;")


def _one_of(allowed: Iterable[Any]) -> str:
    values = list(map(_shown, allowed))
    return "never right: the policy names no allowed value" if not values else " or ".join(values)


def _levels(levels: Mapping[str, int]) -> str:
    return ", ".join(f"{part} {level:#x}" for part, level in levels.items()) or "anything"


def _shown(value: Any) -> str:
    match value:
        case bool():
            return "set" if value else "not set"
        case str():
            return value if value.strip("0") or len(value) < 16 else "zero"
        case tuple() | list() | frozenset() | set():
            return ", ".join(map(_shown, value)) or "none"
        case _:
            return str(value)
