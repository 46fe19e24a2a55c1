"""Metrics, scores and the results page, without TensorFlow."""
