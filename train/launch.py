"""Start a SageMaker training job of this image: `python -m train.launch --help` names every flag.

What it may cost is printed first. Exit status: 0 when the job was created (or printed), 1 when a flag is
wrong or AWS refuses, with every fault in plain words, 2 for flags that cannot be parsed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from serve.aws.requests import requests_as_json
from serve.aws.submit import submit
from serve.errors import AwsError, ConfigError
from serve.flags import parse_flags
from train.launch_request import Launch, describe_cost, training_request

_EXAMPLES = """\
example:
  python -m train.launch --name marathi-1 --image 123456789012.dkr.ecr.us-east-1.amazonaws.com/shrota:0.1.0 \\
    --role arn:aws:iam::123456789012:role/shrota-training --output s3://bucket/jobs --spot \\
    --channel train=s3://bucket/shards/train --channel test=s3://bucket/shards/test --dry-run
"""


def main(arguments: Sequence[str]) -> int:
    """Parse the flags, say what the job costs, and create it."""
    try:
        launch = parse_flags(
            Launch,
            arguments,
            program="python -m train.launch",
            about="Start a SageMaker training job.",
            examples=_EXAMPLES,
        )
        request = training_request(launch)
        print(f"estimate: {describe_cost(launch)}", file=sys.stderr)
        if launch.dry_run:
            print(requests_as_json([request]))
        else:
            submit([request], launch.region, print)
    except ConfigError as error:
        for fault in error.faults:
            print(f"error: {fault}", file=sys.stderr)
        return 1
    except AwsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
