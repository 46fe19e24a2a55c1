"""Backbones behind one table: a name and sizes → a Keras model from images to a feature map."""

from models.backbones.efficientnets import ADDRESSES
from models.backbones.table import NAMES, TABLE, build_backbone, normalization

__all__ = ["ADDRESSES", "NAMES", "TABLE", "build_backbone", "normalization"]
