"""HTTP and WebSocket messages -> calls of `serve.service`, and back. Only this package knows the web."""
