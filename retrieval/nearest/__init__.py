"""Nearest neighbours by inner product: exact, with ScaNN, and lists of a set in itself."""
