"""A service elsewhere: calling one, and deploying one to SageMaker. Nothing that is served imports this."""
