"""Serve Whisper with a LoRA adapter: audio bytes in, a streamed transcript out."""
