"""Corpora of any layout -> checked clips with transcripts, in manifests or shards. Knows no model."""
