"""AMD's product lines with SEV-SNP, and how each lays out a TCB version (AMD 56860, "TCB Version Structure")."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from keep_attestation.errors import MalformedEvidenceError, UnsupportedEvidenceError
from keep_attestation.snp.report import CpuId


class Product(StrEnum):
    """A product line: one root key (ARK), one path at AMD's key service."""

    MILAN = "Milan"
    GENOA = "Genoa"
    """Bergamo and Siena are of this line too."""
    TURIN = "Turin"


class Processor(StrEnum):
    """What a minimum TCB is set for: within the line of Genoa, Zen 4c processors number their microcode apart."""

    MILAN = "Milan"
    GENOA = "Genoa"
    BERGAMO_SIENA = "Bergamo-Siena"
    TURIN = "Turin"

    @property
    def product(self) -> Product:
        return Product.GENOA if self is Processor.BERGAMO_SIENA else Product(self.value)


_MODELS: dict[int, tuple[tuple[range, Processor], ...]] = {
    0x19: (
        (range(0x10), Processor.MILAN),
        (range(0x10, 0x20), Processor.GENOA),
        (range(0xA0, 0xB0), Processor.BERGAMO_SIENA),
    ),
    0x1A: ((range(0x12), Processor.TURIN),),
}
"""CPUID family to ranges of models; family 0x1A models 0x00-0x0F are Turin, 0x10 and 0x11 Turin Dense."""


def processor_of(cpuid: CpuId) -> Processor:
    """Raises `UnsupportedEvidenceError` for every processor without a pinned root."""
    for models, processor in _MODELS.get(cpuid.family, ()):
        if cpuid.model in models:
            return processor
    raise UnsupportedEvidenceError(
        f"SNP report: CPUID family {cpuid.family:#x} model {cpuid.model:#x} is no known processor with SEV-SNP"
    )


@dataclass(frozen=True, slots=True)
class TcbVersion:
    """Security patch levels (SPL) of the firmware parts."""

    bl: int
    """Bootloader of the secure processor."""
    tee: int
    """Its operating system."""
    snp: int
    """SNP firmware."""
    ucode: int
    """Microcode of the cores."""
    fmc: int | None = None
    """FMC firmware; Turin only."""

    def __str__(self) -> str:
        fmc = "" if self.fmc is None else f"fmc {self.fmc}, "
        return f"{fmc}bl {self.bl}, tee {self.tee}, snp {self.snp:#x}, ucode {self.ucode:#x}"


def decode_tcb(raw: bytes, product: Product) -> TcbVersion:
    """The 8 bytes of a TCB_VERSION. Raises `MalformedEvidenceError` when its reserved bytes are not zero."""
    if len(raw) != 8:
        raise MalformedEvidenceError(f"a TCB version has 8 bytes, {len(raw)} came")
    # The trap: Turin put the FMC first and moved all others but the microcode.
    reserved = raw[4:7] if product is Product.TURIN else raw[2:6]
    if any(reserved):
        raise MalformedEvidenceError(f"the TCB version {raw.hex()} has reserved bytes of {product} that are not zero")
    if product is Product.TURIN:
        return TcbVersion(fmc=raw[0], bl=raw[1], tee=raw[2], snp=raw[3], ucode=raw[7])
    return TcbVersion(bl=raw[0], tee=raw[1], snp=raw[6], ucode=raw[7])
