"""The root that Intel's quotes and collateral must lead to."""

from __future__ import annotations

from typing import TypeAlias

TrustAnchors: TypeAlias = frozenset[str]
"""SHA-256 of the SubjectPublicKeyInfo of each trusted root, in hex."""

PRODUCTION_ANCHORS: TrustAnchors = frozenset({"a0af031289f5d5d4132f9186068a7fc13628633ba235777472e29b6b6c67a49e"})
"""Intel SGX Root CA, https://certificates.trustedservices.intel.com/Intel_SGX_Provisioning_Certification_RootCA.cer.

The key is pinned, not a certificate: Intel has issued two for it, valid to 2033 (SHA-256 fc64f807…) and to 2049
(44a0196b…), and quotes in the field carry either.
"""
