"""Put a model to work on SageMaker: `shrota deploy`. What it costs is printed first."""

from __future__ import annotations

from serve.remote.command import launcher_command
from serve.remote.deployment import Deployment
from serve.remote.endpoints import deployment_requests
from serve.remote.prices import describe_price, price_of

_HOURS_A_MONTH = 730


def describe_cost(deployment: Deployment) -> str:
    """Return what the deployment costs, and for how long, in a few sentences."""
    if deployment.mode == "adapter":
        return "an adapter takes the machines of its base component, and costs nothing of its own"
    said = [describe_price(deployment.instance_type, deployment.instances, deployment.price_per_hour)]
    price = price_of(deployment.instance_type, deployment.price_per_hour)
    if price is None:
        return said[0]
    if deployment.mode == "batch":
        return f"{said[0]}, until the last recording is done"
    month = price * _HOURS_A_MONTH
    if deployment.max_instances:
        least, most = deployment.min_instances * month, deployment.max_instances * month
        said.append(f"from {least:.0f} to {most:.0f} USD a month, until it is deleted")
    else:
        said.append(f"{deployment.instances * month:.0f} USD a month, used or not, until it is deleted")
    return "; ".join(said)


command = launcher_command(
    "deploy",
    Deployment,
    deployment_requests,
    describe_cost,
    about="Put a model to work on SageMaker.\n\nWhat it costs is printed first. It needs boto3.",
    examples="""\
shrota deploy --name marathi \\
  --image 123456789012.dkr.ecr.us-east-1.amazonaws.com/shrota:0.1.0 \\
  --role arn:aws:iam::123456789012:role/shrota-serving \\
  --model s3://bucket/jobs/marathi-1/output/model.tar.gz --max-instances 4 --dry-run
""",
)
