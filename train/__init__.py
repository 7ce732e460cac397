"""Teach Whisper a language with LoRA and export an artifact that `serve` can load."""
