"""The fast engine: adapter merged into the base, int8 weights, CTranslate2. Knows no audio, no requests."""
