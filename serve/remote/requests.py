"""One call of the AWS API as data, and what several kinds of request have in common. Sends nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

S3_URI = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?")
ROLE_ARN = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+")
NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")


@dataclass(frozen=True, kw_only=True)
class Request:
    """A call to be made."""

    service: str
    """As boto3 names it, such as `sagemaker`."""
    operation: str
    """As the API names it, such as `CreateModel`."""
    parameters: dict[str, Any]
    """A value `{Field}` stands for that field of the answer before it."""
    then_wait_for: str | None = None
    """What must be in service before the next request: `endpoint` or `inference component`."""


def requests_as_json(requests: Iterable[Request]) -> str:
    """Return requests as people and `aws --cli-input-json` read them."""
    return json.dumps([asdict(request) for request in requests], indent=2, ensure_ascii=False)


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Return tags as the API wants them."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def without_empty(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that say something: not None, and no empty list or dictionary."""
    return {key: value for key, value in parameters.items() if value not in (None, [], {})}


def vpc_config(subnets: Sequence[str], security_groups: Sequence[str]) -> dict[str, list[str]]:
    """Return the network of a job or model; nothing where none is named."""
    return (
        {"Subnets": list(subnets), "SecurityGroupIds": list(security_groups)}
        if subnets and security_groups
        else {}
    )


def name_faults(names: Mapping[str, str]) -> list[str]:
    """Return what is wrong with names of jobs, models and endpoints, by flag."""
    return [
        f"{flag} '{name}' is no name: letters, digits and single hyphens, at most 63"
        for flag, name in names.items()
        if not NAME.fullmatch(name)
    ]


def s3_faults(uris: Mapping[str, str | None]) -> list[str]:
    """Return what is wrong with places in S3, by flag; None is none and right."""
    return [
        f"{flag} '{uri}' is no s3://BUCKET/PREFIX"
        for flag, uri in uris.items()
        if uri is not None and not S3_URI.fullmatch(uri)
    ]


def common_faults(
    *, role: str | None, instance_type: str, subnets: Sequence[str], security_groups: Sequence[str]
) -> list[str]:
    """Return what is wrong with the flags that every request has."""
    rules = (
        (
            role is None or bool(ROLE_ARN.fullmatch(role)),
            f"--role '{role}' is no ARN such as arn:aws:iam::123456789012:role/name",
        ),
        (instance_type.startswith("ml."), f"--instance-type '{instance_type}' is none such as ml.g5.xlarge"),
        (bool(subnets) == bool(security_groups), "--subnet and --security-group go together"),
    )
    return [fault for holds, fault in rules if not holds]
