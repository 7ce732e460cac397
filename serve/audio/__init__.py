"""Bytes of a recording -> 16 kHz mono samples -> windows of speech -> log-mel arrays. Knows no model."""
