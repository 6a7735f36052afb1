"""Verdicts in the forms in which others exchange attestation results."""
