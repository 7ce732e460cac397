"""Flags -> calls of a service elsewhere, or AWS requests that deploy one. The service does not import it."""
