"""Turn a recording's bytes into 16 kHz samples, windows of speech and log-mel arrays. Knows no model."""
