"""A loaded model -> a service that is loading, ready or draining; adapters, sessions. Knows no web."""
