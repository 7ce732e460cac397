"""A trained adapter -> an artifact, merged models for other engines, a hub repository. Trains nothing."""
