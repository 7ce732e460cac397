"""Call a SageMaker endpoint through boto3: one response, a stream of parts, or a response in S3."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from serve.errors import AwsError, ClientError
from serve.remote.call import Call, Payload, error_sentence
from serve.remote.submit import open_client

if TYPE_CHECKING:
    from botocore.client import BaseClient

_POLL_S = 1.0
_ASYNC_LIMIT_S = 3_600


def invoke_endpoint(call: Call, payload: Payload) -> Iterator[bytes]:
    """Yield the parts of an endpoint's response.

    Raises:
        ClientError: The container responds with an error, or the stream breaks off.
        AwsError: AWS refuses the call.
    """
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError
    from botocore.exceptions import ClientError as RefusedCall

    config = Config(read_timeout=call.timeout_s, retries={"max_attempts": 2})
    runtime = open_client("sagemaker-runtime", call.region, config=config)
    described = {
        "EndpointName": call.endpoint,
        "ContentType": payload.content_type,
        "Accept": call.media_type,
        "CustomAttributes": payload.attributes,
        "InferenceComponentName": call.component,
        "TargetModel": call.target_model,
    }
    parameters = {name: value for name, value in described.items() if value}
    try:
        if call.mode == "async":
            yield _invoke_async(call, payload, runtime, parameters)
        elif call.mode == "stream":
            answer = runtime.invoke_endpoint_with_response_stream(**parameters, Body=payload.body)
            yield from _parts(answer["Body"])
        else:
            yield runtime.invoke_endpoint(**parameters, Body=payload.body)["Body"].read()
    except RefusedCall as error:
        raise _as_ours(error.response) from error
    except BotoCoreError as error:
        raise AwsError(str(error)) from error


def _parts(events: Any) -> Iterator[bytes]:
    """Yield the bytes of a response stream."""
    for event in events:
        if part := event.get("PayloadPart"):
            yield part["Bytes"]
        else:
            ((kind, failure),) = event.items()
            raise ClientError(f"{kind}: {failure.get('Message')}")


def _invoke_async(call: Call, payload: Payload, runtime: BaseClient, parameters: dict[str, Any]) -> bytes:
    """Upload the recording to S3, call the endpoint, and wait for the response in S3."""
    s3 = open_client("s3", call.region)
    bucket, _, prefix = str(call.input).removeprefix("s3://").partition("/")
    key = "/".join(filter(None, (prefix.strip("/"), uuid.uuid4().hex, call.recording.name)))
    s3.put_object(Bucket=bucket, Key=key, Body=payload.body, ContentType=payload.content_type)
    answer = runtime.invoke_endpoint_async(
        **parameters,
        InputLocation=f"s3://{bucket}/{key}",
        InvocationTimeoutSeconds=min(_ASYNC_LIMIT_S, max(1, int(call.timeout_s))),
    )
    deadline = time.monotonic() + call.timeout_s
    while time.monotonic() < deadline:
        if (found := _read_if_there(s3, answer["OutputLocation"])) is not None:
            return found
        failure = answer.get("FailureLocation")
        if failure and (found := _read_if_there(s3, failure)) is not None:
            raise ClientError(found.decode(errors="replace")[:500])
        time.sleep(_POLL_S)
    raise ClientError(f"no answer at {answer['OutputLocation']} after {call.timeout_s:.0f} s")


def _read_if_there(s3: BaseClient, uri: str) -> bytes | None:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    try:
        return bytes(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
    except s3.exceptions.NoSuchKey:
        return None


def _as_ours(response: dict[str, Any]) -> ClientError | AwsError:
    """Return the error of a refused call, with the container's own message if there is one."""
    if "OriginalStatusCode" in response:
        text = response.get("OriginalMessage", "")
        try:
            body = json.loads(text)
        except ValueError:
            body = text
        return ClientError(error_sentence(body, response["OriginalStatusCode"]))
    error = response.get("Error", {})
    return AwsError(f"{error.get('Code')}: {error.get('Message')}")
