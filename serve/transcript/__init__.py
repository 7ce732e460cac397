"""Segments and words placed in the recording, and every answer format made of them. Knows no web."""
