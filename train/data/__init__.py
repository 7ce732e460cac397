"""Turn corpora of any layout into checked clips with transcripts, in manifests or shards. Knows no model."""
