"""Sound that still arrives, in pieces cut anywhere -> samples at 16 kHz. Knows no speech and no request."""
