"""Build a frozen Whisper with LoRA adapters from a base checkpoint. Knows no data and no loop."""
