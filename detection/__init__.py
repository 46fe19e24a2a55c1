"""Detection of objects, so that their crops can be embedded: detect, then retrieve."""
