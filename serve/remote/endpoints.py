"""Build the AWS requests that create a deployment, in order. Pure functions; nothing is sent."""

from __future__ import annotations

from typing import Any

from serve.config.reader import read_pairs
from serve.remote.deployment import Deployment
from serve.remote.requests import Request, tag_list, vpc_config, without_empty
from serve.remote.scaling import scaling_requests

VARIANT = "main"
BASE_CHANNEL = "base"
BASE_DIR = f"/opt/ml/additional-model-data-sources/{BASE_CHANNEL}"
ASYNC_BODY_BYTES = 2**30  # SageMaker's own limit for asynchronous requests


def deployment_requests(deployment: Deployment) -> list[Request]:
    """Return the requests of a deployment in any mode."""
    match deployment.mode:
        case "adapter":
            assert deployment.endpoint and deployment.base_component and deployment.model
            return [
                adapter_request(
                    deployment,
                    deployment.name,
                    deployment.model,
                    deployment.endpoint,
                    deployment.base_component,
                )
            ]
        case "batch":
            return [model_request(deployment), transform_request(deployment)]
        case "components":
            endpoint = [endpoint_config_request(deployment), endpoint_request(deployment)]
            return [model_request(deployment), *endpoint, *component_requests(deployment)]
        case _:
            endpoint = [endpoint_config_request(deployment), endpoint_request(deployment)]
            return [model_request(deployment), *endpoint, *scaling_requests(deployment, VARIANT)]


def model_request(deployment: Deployment) -> Request:
    """Return CreateModel: the image, the artifact and the settings."""
    several = deployment.mode == "multi-model"
    container: dict[str, Any] = {
        "Image": deployment.image,
        "Mode": "MultiModel" if several else "SingleModel",
        "Environment": _environment(deployment),
        "AdditionalModelDataSources": [
            {"ChannelName": BASE_CHANNEL, "S3DataSource": _s3_source(deployment.base)}
        ]
        if deployment.base
        else None,
    }
    if several:
        container["ModelDataUrl"] = _directory(str(deployment.model))
    else:
        container["ModelDataSource"] = {"S3DataSource": _s3_source(str(deployment.model))}
    return Request(
        service="sagemaker",
        operation="CreateModel",
        parameters=without_empty(
            {
                "ModelName": deployment.revised_name,
                "ExecutionRoleArn": deployment.role,
                "PrimaryContainer": without_empty(container),
                "EnableNetworkIsolation": deployment.isolated,
                "VpcConfig": vpc_config(deployment.subnet, deployment.security_group),
                "Tags": _tags(deployment),
            }
        ),
    )


def endpoint_config_request(deployment: Deployment) -> Request:
    """Return CreateEndpointConfig; with components it names no model; each component names its own."""
    by_component = deployment.mode == "components"
    variant = {
        "VariantName": VARIANT,
        "ModelName": None if by_component else deployment.revised_name,
        "InstanceType": deployment.instance_type,
        "InitialInstanceCount": deployment.instances,
        "InitialVariantWeight": None if by_component else 1.0,
        "ContainerStartupHealthCheckTimeoutInSeconds": deployment.startup_timeout_s,
        "ModelDataDownloadTimeoutInSeconds": deployment.startup_timeout_s,
        "RoutingConfig": None
        if deployment.mode == "multi-model"
        else {"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"},
        "ManagedInstanceScaling": {
            "Status": "ENABLED",
            "MinInstanceCount": deployment.min_instances,
            "MaxInstanceCount": deployment.max_instances,
        }
        if by_component and deployment.max_instances
        else None,
    }
    return Request(
        service="sagemaker",
        operation="CreateEndpointConfig",
        parameters=without_empty(
            {
                "EndpointConfigName": deployment.revised_name,
                "ExecutionRoleArn": deployment.role if by_component else None,
                "ProductionVariants": [without_empty(variant)],
                "AsyncInferenceConfig": _async_config(deployment) if deployment.mode == "async" else None,
                "DataCaptureConfig": _capture_config(deployment) if deployment.capture else None,
                "Tags": _tags(deployment),
            }
        ),
    )


def endpoint_request(deployment: Deployment) -> Request:
    """Return CreateEndpoint, or with a revision UpdateEndpoint, which keeps the number of instances."""
    names = {"EndpointName": deployment.name, "EndpointConfigName": deployment.revised_name}
    kept = {
        "RetainAllVariantProperties": True,
        "ExcludeRetainedVariantProperties": [{"VariantPropertyType": "DataCaptureConfig"}],
    }
    follows = deployment.mode == "components" or deployment.max_instances > 0
    return Request(
        service="sagemaker",
        operation="UpdateEndpoint" if deployment.revision else "CreateEndpoint",
        parameters={**names, **kept}
        if deployment.revision
        else without_empty({**names, "Tags": _tags(deployment)}),
        then_wait_for="endpoint" if follows else None,
    )


def component_requests(deployment: Deployment) -> list[Request]:
    """Return the base component, its scaling, and its adapters."""
    base = f"{deployment.name}-base"
    compute = {
        "NumberOfCpuCoresRequired": deployment.component_cpus,
        "NumberOfAcceleratorDevicesRequired": float(deployment.component_gpus) or None,
        "MinMemoryRequiredInMb": deployment.component_memory_mb,
    }
    created = Request(
        service="sagemaker",
        operation="CreateInferenceComponent",
        parameters=without_empty(
            {
                "InferenceComponentName": base,
                "EndpointName": deployment.name,
                "VariantName": VARIANT,
                "Specification": {
                    "ModelName": deployment.revised_name,
                    "StartupParameters": {
                        "ContainerStartupHealthCheckTimeoutInSeconds": deployment.startup_timeout_s,
                        "ModelDataDownloadTimeoutInSeconds": deployment.startup_timeout_s,
                    },
                    "ComputeResourceRequirements": without_empty(compute),
                },
                "RuntimeConfig": {"CopyCount": 1},
                "Tags": _tags(deployment),
            }
        ),
        then_wait_for="inference component",
    )
    adapters = read_pairs(deployment.adapter, "--adapter", [])
    return [
        created,
        *scaling_requests(deployment, VARIANT, component=base),
        *(adapter_request(deployment, name, uri, deployment.name, base) for name, uri in adapters.items()),
    ]


def adapter_request(deployment: Deployment, name: str, uri: str, endpoint: str, base: str) -> Request:
    """Return CreateInferenceComponent for an adapter, which runs on the instances of its base."""
    return Request(
        service="sagemaker",
        operation="CreateInferenceComponent",
        parameters=without_empty(
            {
                "InferenceComponentName": name,
                "EndpointName": endpoint,
                "Specification": {"BaseInferenceComponentName": base, "Container": {"ArtifactUrl": uri}},
                "Tags": _tags(deployment),
            }
        ),
    )


def transform_request(deployment: Deployment) -> Request:
    """Return CreateTransformJob: one response per recording."""
    recordings = {"S3DataType": "S3Prefix", "S3Uri": deployment.input}
    return Request(
        service="sagemaker",
        operation="CreateTransformJob",
        parameters=without_empty(
            {
                "TransformJobName": deployment.name,
                "ModelName": deployment.revised_name,
                "MaxConcurrentTransforms": deployment.max_requests,
                "MaxPayloadInMB": deployment.max_payload_mb,
                "BatchStrategy": "SingleRecord",
                "ModelClientConfig": {"InvocationsTimeoutInSeconds": 3_600, "InvocationsMaxRetries": 3},
                "TransformInput": {
                    "DataSource": {"S3DataSource": recordings},
                    "ContentType": deployment.content_type,
                    "SplitType": "None",
                },
                "TransformOutput": {"S3OutputPath": deployment.output, "Accept": deployment.accept},
                "TransformResources": {
                    "InstanceType": deployment.instance_type,
                    "InstanceCount": deployment.instances,
                },
                "Tags": _tags(deployment),
            }
        ),
    )


def _environment(deployment: Deployment) -> dict[str, str]:
    ours = {"SHROTA_BASE_MODEL": BASE_DIR} if deployment.base else {}
    if deployment.mode == "async":
        ours["SHROTA_MAX_BODY_BYTES"] = str(ASYNC_BODY_BYTES)
    return {**ours, **read_pairs(deployment.environment, "--environment", [])}


def _s3_source(uri: str) -> dict[str, str]:
    packed = uri.endswith(".tar.gz")
    return {
        "S3Uri": uri if packed else _directory(uri),
        "S3DataType": "S3Object" if packed else "S3Prefix",
        "CompressionType": "Gzip" if packed else "None",
    }


def _directory(uri: str) -> str:
    return uri if uri.endswith("/") else f"{uri}/"


def _async_config(deployment: Deployment) -> dict[str, Any]:
    topics = {"SuccessTopic": deployment.success_topic, "ErrorTopic": deployment.error_topic}
    output = {
        "S3OutputPath": deployment.output,
        "S3FailurePath": deployment.failures,
        "NotificationConfig": without_empty(topics),
    }
    return {
        "ClientConfig": {"MaxConcurrentInvocationsPerInstance": deployment.max_requests},
        "OutputConfig": without_empty(output),
    }


def _capture_config(deployment: Deployment) -> dict[str, Any]:
    return {
        "EnableCapture": True,
        "InitialSamplingPercentage": deployment.capture_percent,
        "DestinationS3Uri": deployment.capture,
        "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
    }


def _tags(deployment: Deployment) -> list[dict[str, str]]:
    return tag_list(read_pairs(deployment.tag, "--tag", []))
