"""OpenAI's audio API -> the service's own options and formats: routes below /v1.

Knows OpenAI's terms, and nothing of how a recording is transcribed.
"""
