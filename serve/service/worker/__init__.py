"""The engine in a process of its own, which may die without taking the service with it.

`SupervisedEngine` implements an engine by calls to a child, `python -m serve.service.worker`. A child that
ends, hangs, or holds too much memory is replaced. Requests to the child are pickled, because it trusts its
parent. Its answers are msgpack that is read by type, because a process that decodes strangers' sound is not
trusted.
"""
