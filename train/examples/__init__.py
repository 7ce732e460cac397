"""Turn clips into batches for training: joined, augmented, padded. Knows no model."""
