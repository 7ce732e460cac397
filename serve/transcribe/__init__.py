"""Recordings on disk -> transcripts on disk, through the pipeline of the service. Knows no web."""
