"""Deploy a model on SageMaker: `shrota deploy`."""

from __future__ import annotations

from serve.remote.command import launcher_command
from serve.remote.deployment import Deployment
from serve.remote.endpoints import deployment_requests

command = launcher_command(
    "deploy",
    Deployment,
    deployment_requests,
    about="Deploy a model on SageMaker. It needs boto3.",
    examples="""\
shrota deploy --name marathi \\
  --image 123456789012.dkr.ecr.us-east-1.amazonaws.com/shrota:0.1.0 \\
  --role arn:aws:iam::123456789012:role/shrota-serving \\
  --model s3://bucket/jobs/marathi-1/output/model.tar.gz --max-instances 4 --dry-run
""",
)
