"""AWS API calls as data, with parameters and checks that several of them share. Sends nothing."""

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
    """One call of the AWS API."""

    service: str
    """boto3's name of the AWS service, such as `sagemaker`."""
    operation: str
    """Name of the API operation, such as `CreateModel`."""
    parameters: dict[str, Any]
    """A value `{Field}` stands for that field of the previous response."""
    then_wait_for: str | None = None
    """Resource that must be in service before the next request: `endpoint` or `inference component`."""


def requests_as_json(requests: Iterable[Request]) -> str:
    """Return requests as indented JSON, for `aws --cli-input-json`."""
    return json.dumps([asdict(request) for request in requests], indent=2, ensure_ascii=False)


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Return tags in the API's format."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def without_empty(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters without None, empty lists and empty dictionaries."""
    return {key: value for key, value in parameters.items() if value not in (None, [], {})}


def vpc_config(subnets: Sequence[str], security_groups: Sequence[str]) -> dict[str, list[str]]:
    """Return the VPC configuration of a job or model; empty if none is given."""
    return (
        {"Subnets": list(subnets), "SecurityGroupIds": list(security_groups)}
        if subnets and security_groups
        else {}
    )


def name_faults(names: Mapping[str, str]) -> list[str]:
    """Return faults in names of jobs, models and endpoints, given by flag."""
    return [
        f"{flag} '{name}' is not a valid name: letters, digits and single hyphens, at most 63"
        for flag, name in names.items()
        if not NAME.fullmatch(name)
    ]


def s3_faults(uris: Mapping[str, str | None]) -> list[str]:
    """Return faults in S3 URIs, given by flag; None is allowed."""
    return [
        f"{flag} '{uri}' is not of the form s3://BUCKET/PREFIX"
        for flag, uri in uris.items()
        if uri is not None and not S3_URI.fullmatch(uri)
    ]


def common_faults(
    *, role: str | None, instance_type: str, subnets: Sequence[str], security_groups: Sequence[str]
) -> list[str]:
    """Return faults in the flags that all launchers share."""
    rules = (
        (
            role is None or bool(ROLE_ARN.fullmatch(role)),
            f"--role '{role}' is not an ARN such as arn:aws:iam::123456789012:role/name",
        ),
        (instance_type.startswith("ml."), f"--instance-type '{instance_type}' is not like ml.g5.xlarge"),
        (bool(subnets) == bool(security_groups), "--subnet and --security-group go together"),
    )
    return [fault for holds, fault in rules if not holds]
