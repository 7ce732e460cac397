"""Find and check artifacts, adapters and base models on disk. Knows no audio, runs no model."""
