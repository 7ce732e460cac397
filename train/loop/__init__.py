"""Batches -> gradients -> a trained adapter; checkpoints, validation and metrics on the way."""
