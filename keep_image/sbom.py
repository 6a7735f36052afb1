"""The image's bill of materials in SPDX 2.3 JSON: which package each file of the image came from."""

from __future__ import annotations

import json
from typing import Any, Final
from urllib.parse import quote

from keep_image.manifest import Component, Manifest, Origin

_NAMESPACE: Final = "tag:wasmkeep.dev,2026:image:"
_CREATED: Final = "1970-01-01T00:00:00Z"
"""SPDX demands a time. A true one would make two builds of one image differ."""


def encode_sbom(manifest: Manifest) -> bytes:
    """The document, the same for the same image."""
    image = "SPDXRef-image"
    packages = [_package(component) for component in manifest.components]
    document: dict[str, Any] = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": "wasmkeep guest image",
        "documentNamespace": f"{_NAMESPACE}{manifest.kernel.sha256}:{manifest.initramfs.sha256}",
        "creationInfo": {"created": _CREATED, "creators": [f"Tool: wasmkeep-{manifest.wasmkeep}"]},
        "packages": [
            {
                "SPDXID": image,
                "name": "wasmkeep-guest-image",
                "versionInfo": manifest.wasmkeep,
                "downloadLocation": "NOASSERTION",
                "filesAnalyzed": False,
                "checksums": [{"algorithm": "SHA256", "checksumValue": manifest.initramfs.sha256}],
            },
            *packages,
        ],
        "relationships": [
            {"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": image},
            *(
                {"spdxElementId": image, "relationshipType": "CONTAINS", "relatedSpdxElement": package["SPDXID"]}
                for package in packages
            ),
        ],
    }
    return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"


def _package(component: Component) -> dict[str, Any]:
    described: dict[str, Any] = {
        "SPDXID": f"SPDXRef-{component.origin.value}-{_identifier(component.name)}",
        "name": component.name,
        "versionInfo": component.version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "checksums": [{"algorithm": "SHA256", "checksumValue": component.sha256}],
    }
    if (reference := _package_url(component)) is not None:
        described["externalRefs"] = [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": reference,
            }
        ]
    return described


def _package_url(component: Component) -> str | None:
    version = quote(component.version, safe="")
    name = quote(component.name, safe="")
    if component.origin is Origin.DEBIAN:
        # Only the kernel's source is one package for all machines.
        machine = "all" if component.name.startswith("linux-source-") else "amd64"
        return f"pkg:deb/debian/{name}@{version}?arch={machine}"
    if component.origin is Origin.PYPI:
        return f"pkg:pypi/{name}@{version}"
    return None


def _identifier(name: str) -> str:
    """SPDX identifiers have letters, digits, dots and dashes."""
    return "".join(character if character.isalnum() or character in ".-" else "-" for character in name)
