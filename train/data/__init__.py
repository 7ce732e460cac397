"""Speech data: text sources, synthesis, manifests."""
