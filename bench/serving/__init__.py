"""The service measured against other ways to run the same weights; `bench/serve.py` is the command."""
