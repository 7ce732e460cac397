"""A run directory -> one page for a person."""
