"""Verifies what a keep shows to prove itself: hardware evidence, policies and RA-TLS certificates."""
