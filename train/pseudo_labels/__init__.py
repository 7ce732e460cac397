"""Transcripts of recordings that nobody has written down -> training rows, where they can be believed.

`shrota select` keeps what the model was sure of, and what two outputs agree on. `shrota selftrain` goes
round: transcribe, select, train, score, and keep the new adapter if it hears people better. Knows no HTTP.
"""
