"""What is on disk: artifacts, adapters and base models, found, checked and built once. Knows no audio."""
