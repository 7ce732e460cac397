"""SageMaker's contracts -> calls of the service: routes, headers and frames as its platform words them.

Knows what a container must answer; knows nothing of how a recording becomes text.
"""
