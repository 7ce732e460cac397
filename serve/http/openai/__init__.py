"""OpenAI's audio API -> the service's own options and formats: routes below /v1.

Knows how OpenAI words things; knows nothing of how a recording becomes text.
"""
