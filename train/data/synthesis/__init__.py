"""Marathi text -> synthetic voices -> clips and manifests."""
