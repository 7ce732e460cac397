"""Rows of data -> examples -> batches, as a training step sees them."""
