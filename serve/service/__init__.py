"""The life of a service: loading, ready, draining; adapters, sessions, hooks, live speech. Knows no web."""
