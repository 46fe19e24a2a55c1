"""Backbones, pooling, heads, losses, the builder and the transfer between stages."""
