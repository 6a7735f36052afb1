"""The AMD keys that SNP verification trusts: pinned by SHA-256 in code, the certificates in this package."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import TypeAlias

from keep_attestation.certificates import Certificate, read_certificate
from keep_attestation.errors import EndorsementsError
from keep_attestation.snp.products import Product
from keep_attestation.snp.vek import EndorsementKey

# SHA-256 of ARK, ASK (issues VCEKs) and ASVK (issues VLEKs), from https://kdsintf.amd.com/{vcek,vlek}/v1/<product>/
# cert_chain. The ARKs are the same in go-sev-guest, virtee/sev and Oak. Intermediates are pinned too: AMD revoked an
# earlier ASK-Genoa (serial 0x20001), and whoever withholds the CRL must not bring it back.
_PINS = {
    Product.MILAN: (
        "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
        "67d303bd3905fd38db8b20e0793699870e7fa612eaad5dec358293fd8c0bac1b",
        "c5e081f59b7efab1fe2f8b505e159704e72f29cab7ef7cf628a05a42439082f5",
    ),
    Product.GENOA: (
        "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
        "5464738c1546aed5f2cecf1dc98c5c960a92e8913238a61711bc90ec6e828521",
        "197e610743a917d6b9bb982a5a9226ccc0a15b611be0619e626aca9151457372",
    ),
    Product.TURIN: (
        "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",
        "5b77ef5fe7a7a004fd9032668fba9d0fda22f88c4442069a479636a6ae3b3185",
        "104e10a8bd060a3c20a434261a57d0588fd65a88915b4f65b08bdecaf8df1a3c",
    ),
}


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """The keys above the endorsement keys of one product line."""

    product: Product
    ark: Certificate
    """AMD root key."""
    ask: Certificate
    """AMD SEV key: issues VCEKs."""
    asvk: Certificate
    """AMD SEV-VLEK key: issues VLEKs."""

    def issuer_of(self, key: EndorsementKey) -> Certificate:
        return self.ask if key is EndorsementKey.VCEK else self.asvk

    @property
    def certificates(self) -> tuple[Certificate, Certificate, Certificate]:
        return (self.ark, self.ask, self.asvk)


Anchors: TypeAlias = tuple[Hierarchy, ...]


def packaged_certificate(name: str, pin: str) -> Certificate:
    """The certificate of this package called `name`, e.g. `ark-milan`.

    Raises `EndorsementsError` when its SHA-256 is not `pin`: the installation is damaged, or somebody's.
    """
    data = files(__package__).joinpath("certificates", f"{name}.der").read_bytes()
    certificate = read_certificate(data)
    if certificate.sha256 != pin:
        raise EndorsementsError(f"{name}.der in this installation has SHA-256 {certificate.sha256}, pinned is {pin}")
    return certificate


def _production_anchors() -> Anchors:
    hierarchies = []
    for product, pins in _PINS.items():
        names = (f"{role}-{product.value.lower()}" for role in ("ark", "ask", "asvk"))
        ark, ask, asvk = (packaged_certificate(name, pin) for name, pin in zip(names, pins, strict=True))
        hierarchies.append(Hierarchy(product=product, ark=ark, ask=ask, asvk=asvk))
    return tuple(hierarchies)


PRODUCTION_ANCHORS = _production_anchors()
"""AMD's own; evidence under any other root is refused."""
