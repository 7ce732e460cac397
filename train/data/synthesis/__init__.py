"""Speak Marathi text with synthetic voices, into clips and manifests. Knows no model."""
