"""From tables of images to TFRecord shards, and back for checking."""
