"""The embedded default data: photographs of landmarks, drawn from a seed."""
