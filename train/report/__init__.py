"""Render a run directory as one HTML page. Opens no model."""
