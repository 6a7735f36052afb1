"""How a keep gets keys from others by its evidence: AWS KMS, and brokers that speak Trustee's protocol."""
