"""The reference engine: any quantization of the base, adapter beside it. Knows no audio, no requests."""
