"""Put a model to work on SageMaker: `python -m serve.remote.deploy --help` names every flag.

What it costs is printed first. Exit status: 0 when everything was created (or printed), 1 when a flag is
wrong or AWS refuses, with every fault in plain words, 2 for flags that cannot be parsed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from serve.remote.command import run_launcher
from serve.remote.deployment import Deployment
from serve.remote.endpoints import deployment_requests
from serve.remote.prices import describe_price, price_of

_HOURS_A_MONTH = 730
_EXAMPLES = """\
example:
  python -m serve.remote.deploy --name marathi \\
    --image 123456789012.dkr.ecr.us-east-1.amazonaws.com/shrota:0.1.0 \\
    --role arn:aws:iam::123456789012:role/shrota-serving \\
    --model s3://bucket/jobs/marathi-1/output/model.tar.gz --max-instances 4 --dry-run
"""


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


def main(arguments: Sequence[str]) -> int:
    """Parse the flags, say what it costs, and create it."""
    return run_launcher(
        Deployment,
        arguments,
        deployment_requests,
        describe_cost,
        program="python -m serve.remote.deploy",
        about="Put a model to work on SageMaker.",
        examples=_EXAMPLES,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
