"""Verifies simulated evidence."""
