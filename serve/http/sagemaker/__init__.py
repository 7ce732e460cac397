"""SageMaker's contracts -> calls of the service: routes, headers and frames of its platform.

Knows how a container must respond, and nothing of how a recording is transcribed.
"""
