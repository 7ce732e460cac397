"""Turn clips into examples and batches as training steps see them: joined, augmented, padded. Knows no model."""
