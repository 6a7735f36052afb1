"""Sealing: root keys of a keep, and envelopes that only they open."""
