"""From embeddings to ranked answers, without TensorFlow."""
