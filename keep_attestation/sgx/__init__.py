"""Verifies Sgx evidence."""
