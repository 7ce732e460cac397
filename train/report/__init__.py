"""A run directory -> one HTML page for people. Opens no model."""
