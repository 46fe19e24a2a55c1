"""Checks of a recipe before hours are spent on it."""
