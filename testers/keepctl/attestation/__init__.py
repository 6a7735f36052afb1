"""What the commands about evidence have in common. Imported by their handlers only: verifiers take time to load."""
