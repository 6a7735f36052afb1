"""AMD SEV-SNP: attestation reports, the certificates that vouch for them, and what a policy demands of them."""
