"""Put a model to work on SageMaker: `python -m serve.remote.deploy --help` names every flag.

Exit status: 0 when everything was created (or printed), 1 when a flag is
wrong or AWS refuses, with every fault in plain words, 2 for flags that cannot be parsed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from serve.remote.command import run_launcher
from serve.remote.deployment import Deployment
from serve.remote.endpoints import deployment_requests

_EXAMPLES = """\
example:
  python -m serve.remote.deploy --name marathi \\
    --image 123456789012.dkr.ecr.us-east-1.amazonaws.com/shrota:0.1.0 \\
    --role arn:aws:iam::123456789012:role/shrota-serving \\
    --model s3://bucket/jobs/marathi-1/output/model.tar.gz --max-instances 4 --dry-run
"""


def main(arguments: Sequence[str]) -> int:
    """Parse the flags and create the deployment, or print its requests."""
    return run_launcher(
        Deployment,
        arguments,
        deployment_requests,
        program="python -m serve.remote.deploy",
        about="Put a model to work on SageMaker.",
        examples=_EXAMPLES,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
