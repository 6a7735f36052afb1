"""Verifies Tdx evidence."""
