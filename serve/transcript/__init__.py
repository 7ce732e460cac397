"""Hypotheses of windows -> segments in recording time -> answer formats. Knows no engine and no web."""
