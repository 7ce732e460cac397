"""The life of a service around a loaded model: loading, adapters, sessions, hooks, draining. Knows no web."""
