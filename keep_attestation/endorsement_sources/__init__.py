"""Where endorsements come from that were not sent with the evidence: directories, and the manufacturers' services."""
