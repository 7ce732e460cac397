"""Speech data: text sources and synthesis; sources of clips, filters, manifests and shards."""
