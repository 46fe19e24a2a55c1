"""Transforms of embeddings: PCA, whitening, learned whitening, power; and what they lose."""
