"""From files and folders, as tools and clouds write them, to evidence that verifiers take. Nothing is fetched."""
