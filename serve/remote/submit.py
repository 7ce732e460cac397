"""Send AWS requests in order through boto3, waiting for a resource where the next request needs it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from serve.errors import AwsError
from serve.remote.requests import Request

if TYPE_CHECKING:
    from botocore.client import BaseClient

_WAIT_S = 3_600
_POLL_S = 15


def open_client(service: str, region: str | None, **options: Any) -> BaseClient:
    """Return boto3's client for a service.

    Raises:
        AwsError: boto3 is not installed, or no region is known.
    """
    try:
        import boto3
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise AwsError("boto3 is not installed: pip install 'shrota[aws]'") from error
    try:
        return boto3.client(service, region_name=region, **options)
    except BotoCoreError as error:
        raise AwsError(f"{service}: {error}") from error


def submit(requests: Iterable[Request], region: str | None, say: Callable[[str], None]) -> None:
    """Send requests in order.

    Args:
        region: AWS region; None takes the environment's.
        say: Called with a sentence about each request.

    Raises:
        AwsError: AWS refuses a request; earlier ones are not undone.
    """
    from botocore import xform_name
    from botocore.exceptions import BotoCoreError, ClientError

    answer: dict[str, Any] = {}
    for request in requests:
        client = open_client(request.service, region)
        call = getattr(client, xform_name(request.operation))
        try:
            answer = call(**_filled(request.parameters, answer))
        except (BotoCoreError, ClientError) as error:
            raise AwsError(f"{request.operation}: {error}") from error
        arn = next((value for key, value in answer.items() if key.lower().endswith("arn")), "")
        say(f"{request.operation}: {arn or 'done'}")
        if request.then_wait_for:
            say(f"waiting for the {request.then_wait_for} to be in service, which takes minutes")
            _wait(client, request)


def _filled(value: Any, answer: dict[str, Any]) -> Any:
    """Replace `{Field}` by that field of the previous response."""
    if isinstance(value, dict):
        return {key: _filled(item, answer) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, answer) for item in value]
    if isinstance(value, str) and (field := re.fullmatch(r"\{(\w+)\}", value)):
        return answer[field[1]]
    return value


def _wait(client: BaseClient, request: Request) -> None:
    describe, name, status, reason = {
        "endpoint": ("describe_endpoint", "EndpointName", "EndpointStatus", "FailureReason"),
        "inference component": (
            "describe_inference_component",
            "InferenceComponentName",
            "InferenceComponentStatus",
            "FailureReason",
        ),
    }[str(request.then_wait_for)]
    deadline = time.monotonic() + _WAIT_S
    while time.monotonic() < deadline:
        found = getattr(client, describe)(**{name: request.parameters[name]})
        if found[status] == "InService":
            return
        if found[status] == "Failed":
            raise AwsError(f"{request.parameters[name]} failed: {found.get(reason, 'no reason is given')}")
        time.sleep(_POLL_S)
    raise AwsError(f"{request.parameters[name]} is not in service after {_WAIT_S} s")
