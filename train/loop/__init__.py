"""A model and batches -> a trained adapter, checkpoints and metrics. Knows no corpus and no artifact."""
