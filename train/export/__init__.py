"""A trained adapter -> an artifact; merged models for other engines; the hub."""
