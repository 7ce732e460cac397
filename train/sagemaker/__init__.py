"""SageMaker's files and flags -> a training run in a container, or a request that starts one."""
