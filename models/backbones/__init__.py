"""Backbones behind one table: a name and sizes → a Keras model from images to a feature map."""

from models.backbones.efficientnets import ADDRESSES, build_backbone

__all__ = ["ADDRESSES", "build_backbone"]
