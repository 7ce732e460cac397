"""Train an adapter on batches, with checkpoints and metrics. Knows no corpus and no artifact."""
