"""Marathi text -> synthetic voices -> clips and manifests. Knows no model."""
