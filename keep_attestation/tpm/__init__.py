"""Verifies quotes of TPM 2.0 chips and virtual TPMs."""

from __future__ import annotations
