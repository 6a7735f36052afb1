"""RA-TLS: evidence in X.509 certificates, and its binding to connections."""
