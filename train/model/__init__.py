"""A base checkpoint -> a frozen Whisper with LoRA adapters, fast to train. Knows no data and no loop."""
