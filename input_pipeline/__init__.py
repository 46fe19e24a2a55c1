"""From TFRecord shards to batches of (image, label, weight)."""
