"""Translate HTTP and WebSocket messages to calls of `serve.service`. Only this package knows the web."""
