"""Where other systems put evidence into certificates, and what they bind it to: one module per convention."""
