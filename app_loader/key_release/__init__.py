"""How a keep gets secrets by its evidence alone: from key brokers with Trustee's protocol, and from AWS KMS."""
