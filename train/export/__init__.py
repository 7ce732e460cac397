"""Export a trained adapter: as an artifact, merged for other engines, to the hub. Trains nothing."""
