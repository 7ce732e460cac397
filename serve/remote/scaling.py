"""Scale an endpoint's instances with its load, by Application Auto Scaling.

The load is the number of concurrent requests, not requests per minute, since one recording takes a second and
another an hour.
"""

from __future__ import annotations

from typing import Any

from serve.remote.deployment import Deployment
from serve.remote.requests import Request

OUT_COOLDOWN_S = 60
IN_COOLDOWN_S = 300


def scaling_requests(deployment: Deployment, variant: str, component: str | None = None) -> list[Request]:
    """Return the requests that scale instances or a component's copies; none without scaling."""
    if not deployment.max_instances:
        return []
    if component:
        target = {
            "ResourceId": f"inference-component/{component}",
            "ScalableDimension": "sagemaker:inference-component:DesiredCopyCount",
        }
    else:
        target = {
            "ResourceId": f"endpoint/{deployment.name}/variant/{variant}",
            "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
        }
    target["ServiceNamespace"] = "sagemaker"
    registered = _request(
        "RegisterScalableTarget",
        {**target, "MinCapacity": deployment.min_instances, "MaxCapacity": deployment.max_instances},
    )
    tracking = {
        "TargetValue": deployment.target_requests,
        "ScaleOutCooldown": OUT_COOLDOWN_S,
        "ScaleInCooldown": IN_COOLDOWN_S,
        **_metric(deployment, component),
    }
    followed = _request(
        "PutScalingPolicy",
        {
            **target,
            "PolicyName": f"{component or deployment.name}-requests",
            "PolicyType": "TargetTrackingScaling",
            "TargetTrackingScalingPolicyConfiguration": tracking,
        },
    )
    wakes = deployment.mode == "async" and deployment.min_instances == 0
    return [registered, followed, *(_wake_requests(deployment, target) if wakes else [])]


def _metric(deployment: Deployment, component: str | None) -> dict[str, Any]:
    if deployment.mode == "async":
        backlog = {
            "MetricName": "ApproximateBacklogSizePerInstance",
            "Namespace": "AWS/SageMaker",
            "Dimensions": [{"Name": "EndpointName", "Value": deployment.name}],
            "Statistic": "Average",
        }
        return {"CustomizedMetricSpecification": backlog}
    kind = (
        "SageMakerInferenceComponentConcurrentRequestsPerCopyHighResolution"
        if component
        else "SageMakerVariantConcurrentRequestsPerModelHighResolution"
    )
    return {"PredefinedMetricSpecification": {"PredefinedMetricType": kind}}


def _wake_requests(deployment: Deployment, target: dict[str, str]) -> list[Request]:
    """Return the alarm that starts the first instance; without instances there is no backlog per instance."""
    step = {
        "AdjustmentType": "ChangeInCapacity",
        "MetricAggregationType": "Average",
        "Cooldown": IN_COOLDOWN_S,
        "StepAdjustments": [{"MetricIntervalLowerBound": 0.0, "ScalingAdjustment": 1}],
    }
    policy = _request(
        "PutScalingPolicy",
        {
            **target,
            "PolicyName": f"{deployment.name}-wake",
            "PolicyType": "StepScaling",
            "StepScalingPolicyConfiguration": step,
        },
    )
    alarm = {
        "AlarmName": f"{deployment.name}-waiting",
        "MetricName": "HasBacklogWithoutCapacity",
        "Namespace": "AWS/SageMaker",
        "Dimensions": [{"Name": "EndpointName", "Value": deployment.name}],
        "Statistic": "Average",
        "Period": 60,
        "EvaluationPeriods": 2,
        "DatapointsToAlarm": 2,
        "Threshold": 1.0,
        "ComparisonOperator": "GreaterThanOrEqualToThreshold",
        "TreatMissingData": "missing",
        "AlarmActions": ["{PolicyARN}"],
    }
    return [policy, Request(service="cloudwatch", operation="PutMetricAlarm", parameters=alarm)]


def _request(operation: str, parameters: dict[str, Any]) -> Request:
    return Request(service="application-autoscaling", operation=operation, parameters=parameters)
