"""What comes after the search: expansion, re-ranking, diffusion, labels, geometry, in steps."""
