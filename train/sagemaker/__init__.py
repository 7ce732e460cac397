"""Run a training job in a SageMaker container, or request one."""
