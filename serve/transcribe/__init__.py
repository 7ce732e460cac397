"""Transcribe files on disk through the service's pipeline. Knows no web."""
