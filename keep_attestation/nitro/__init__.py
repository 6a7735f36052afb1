"""Verifies attestation documents of AWS Nitro enclaves."""

from __future__ import annotations
