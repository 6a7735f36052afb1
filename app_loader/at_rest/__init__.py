"""Sealing of what a keep stores, and plaintext in memory for the runs that use it."""
