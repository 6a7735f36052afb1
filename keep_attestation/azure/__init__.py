"""Verifies quotes of Azure's virtual TPM, of which an SNP report or a TD quote vouches for the key."""

from __future__ import annotations
