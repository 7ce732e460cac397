"""Clips -> examples -> batches, as a training step sees them: joined, augmented, padded. Knows no model."""
