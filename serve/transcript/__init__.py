"""Turn hypotheses of windows into segments in recording time and responses. Knows no engine and no web."""
