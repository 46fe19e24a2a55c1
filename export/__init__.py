"""From a trained member to SavedModels and embeddings."""
