"""What TDX and SGX share: quotes, PCK certificates, Intel's collateral, and the verification of all three together."""
