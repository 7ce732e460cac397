"""Recordings on disk -> transcripts on disk, through the pipeline that is served."""
