"""LoRA adapters on a frozen Whisper, and what makes training them fast."""
