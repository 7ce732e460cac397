"""The IAM policies in docs/: JSON, of actions that exist, enough for what the launchers send, and no more."""

from __future__ import annotations

import json
from pathlib import Path

import botocore.session
import pytest

from serve.remote.deployment import Deployment
from serve.remote.endpoints import deployment_requests

DOCS = Path(__file__).parents[1] / "docs"
POLICIES = sorted(DOCS.glob("iam-*.json"))
NO_OPERATIONS = {"iam:PassRole", "s3:ListBucket"}  # rights that are named otherwise than what they allow
ANYWHERE = {"ecr:GetAuthorizationToken", "cloudwatch:PutMetricData"}  # IAM narrows these to no resource


def statements(path: Path) -> list[dict]:
    policy = json.loads(path.read_text("utf-8"))
    assert policy["Version"] == "2012-10-17"
    return policy["Statement"]


def actions(path: Path) -> set[str]:
    return {action for statement in statements(path) for action in statement["Action"]}


every_policy = pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.stem)


@every_policy
def test_every_action_is_an_operation_of_its_service(path):
    session = botocore.session.get_session()
    for action in actions(path) - NO_OPERATIONS:
        service, operation = action.split(":")
        names = (service, "sagemaker-runtime") if service == "sagemaker" else (service,)
        known = {each for name in names for each in session.get_service_model(name).operation_names}
        assert operation in known, action


@every_policy
def test_nothing_is_allowed_everywhere_and_no_action_has_a_star(path):
    for statement in statements(path):
        assert statement["Effect"] == "Allow"
        assert not any("*" in action for action in statement["Action"])
        if statement["Resource"] == "*":
            assert set(statement["Action"]) <= ANYWHERE


@pytest.mark.parametrize("mode", ["real-time", "async", "multi-model", "components", "adapter", "batch"])
def test_the_launcher_may_do_all_that_it_sends(mode):
    deployment = Deployment(
        name="marathi",
        mode=mode,
        image="i",
        role="arn:aws:iam::123456789012:role/r",
        model="s3://speech/m.tar.gz",
        endpoint="many",
        base_component="many-base",
        input="s3://speech/in",
        output="s3://speech/out",
        min_instances=0 if mode == "async" else 1,
        max_instances=0 if mode in ("adapter", "batch") else 2,
    )
    allowed = actions(DOCS / "iam-launcher.json")
    for request in deployment_requests(deployment):
        assert f"{request.service}:{request.operation}" in allowed
    assert "sagemaker:CreateTrainingJob" in allowed and "iam:PassRole" in allowed
