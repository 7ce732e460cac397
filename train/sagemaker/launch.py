"""Start a SageMaker training job of this image: `python -m train.sagemaker.launch --help` names every flag.

Exit status: 0 when the job was created (or printed), 1 when a flag is
wrong or AWS refuses, with every fault in plain words, 2 for flags that cannot be parsed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from serve.remote.command import run_launcher
from train.sagemaker.launch_request import Launch, training_request

_EXAMPLES = """\
example:
  python -m train.sagemaker.launch --name marathi-1 \\
    --image 123456789012.dkr.ecr.us-east-1.amazonaws.com/shrota:0.1.0 \\
    --role arn:aws:iam::123456789012:role/shrota-training --output s3://bucket/jobs --spot \\
    --channel train=s3://bucket/shards/train --channel test=s3://bucket/shards/test --dry-run
"""


def main(arguments: Sequence[str]) -> int:
    """Parse the flags and create the job, or print its request."""
    return run_launcher(
        Launch,
        arguments,
        lambda launch: [training_request(launch)],
        program="python -m train.sagemaker.launch",
        about="Start a SageMaker training job.",
        examples=_EXAMPLES,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
