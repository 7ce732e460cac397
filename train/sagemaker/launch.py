"""Start a SageMaker training job of this image: `shrota launch`."""

from __future__ import annotations

from serve.remote.command import launcher_command
from serve.remote.requests import Request
from train.sagemaker.launch_request import Launch, training_request


def launch_requests(launch: Launch) -> list[Request]:
    return [training_request(launch)]


command = launcher_command(
    "launch",
    Launch,
    launch_requests,
    about="Start a SageMaker training job. It needs boto3.",
    examples="""\
shrota launch --name marathi-1 \\
  --image 123456789012.dkr.ecr.us-east-1.amazonaws.com/shrota:0.1.0 \\
  --role arn:aws:iam::123456789012:role/shrota-training --output s3://bucket/jobs --spot \\
  --channel train=s3://bucket/shards/train --channel test=s3://bucket/shards/test --dry-run
""",
    needs="train",
)
