"""Recordings and peers -> figures of speed, memory and word errors. `bench/serve.py` is the command."""
