"""The index in a directory: built, tuned, changed, and measured against exact search."""
