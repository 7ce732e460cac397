"""Deployments: faults before money is spent, requests that AWS's own model accepts, in the right order."""

from __future__ import annotations

import json

import botocore.session
import pytest
from botocore.validate import ParamValidator

from serve.config.command_line import run_command
from serve.errors import AwsError, ConfigError
from serve.remote.deploy import command
from serve.remote.deployment import Deployment
from serve.remote.endpoints import deployment_requests
from serve.remote.requests import Request
from serve.remote.submit import submit

COMMON = {
    "name": "marathi",
    "image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/shrota:0.1.0",
    "role": "arn:aws:iam::123456789012:role/shrota-serving",
    "model": "s3://speech/jobs/marathi-1/output/model.tar.gz",
}
MODES = {
    "real-time": {},
    "real-time, all": {
        "base": "s3://speech/whisper-large-v2",
        "environment": ("SHROTA_MAX_REQUESTS=32",),
        "tag": ("team=speech",),
        "max_instances": 4,
        "capture": "s3://speech/capture",
        "subnet": ("subnet-1",),
        "security_group": ("sg-1",),
    },
    "a revision": {"revision": "2"},
    "async": {
        "mode": "async",
        "output": "s3://speech/out",
        "min_instances": 0,
        "max_instances": 3,
        "failures": "s3://speech/failed",
        "success_topic": "arn:aws:sns:us-east-1:123456789012:done",
    },
    "multi-model": {"mode": "multi-model", "model": "s3://speech/artifacts"},
    "components": {
        "mode": "components",
        "adapter": ("hindi=s3://speech/hindi.tar.gz",),
        "max_instances": 2,
        "instance_type": "ml.g5.xlarge",
        "component_gpus": 1,
    },
    "adapter": {
        "mode": "adapter",
        "model": "s3://speech/tamil.tar.gz",
        "endpoint": "marathi",
        "base_component": "marathi-base",
    },
    "batch": {
        "mode": "batch",
        "input": "s3://speech/in/",
        "output": "s3://speech/out",
        "accept": "application/json",
    },
}
every_mode = pytest.mark.parametrize("changes", MODES.values(), ids=MODES)


def requests_of(**changes):
    return deployment_requests(Deployment(**{**COMMON, **changes}))


def by_operation(requests):
    return {request.operation: request.parameters for request in requests}


@every_mode
def test_every_request_has_the_shape_of_the_api(changes):
    session = botocore.session.get_session()
    for request in requests_of(**changes):
        model = session.get_service_model(request.service).operation_model(request.operation)
        report = ParamValidator().validate(request.parameters, model.input_shape)
        assert not report.has_errors(), report.generate_report()


@every_mode
def test_what_is_captured_and_what_reaches_a_network_is_only_what_was_asked_for(changes):
    sent = by_operation(requests_of(**changes))
    if "CreateModel" in sent:
        assert sent["CreateModel"]["EnableNetworkIsolation"] is True
    if "CreateEndpointConfig" in sent:
        assert ("DataCaptureConfig" in sent["CreateEndpointConfig"]) == ("capture" in changes)


def test_an_artifact_is_unpacked_by_sagemaker_or_taken_as_it_lies():
    def source(uri):
        container = by_operation(requests_of(model=uri))["CreateModel"]["PrimaryContainer"]
        return container["ModelDataSource"]["S3DataSource"]

    assert source("s3://speech/m.tar.gz")["CompressionType"] == "Gzip"
    assert source("s3://speech/artifact") == {
        "S3Uri": "s3://speech/artifact/",
        "S3DataType": "S3Prefix",
        "CompressionType": "None",
    }


def test_a_base_model_of_its_own_is_mounted_where_the_service_is_told_to_look():
    container = by_operation(requests_of(base="s3://speech/base"))["CreateModel"]["PrimaryContainer"]
    (source,) = container["AdditionalModelDataSources"]
    place = f"/opt/ml/additional-model-data-sources/{source['ChannelName']}"
    assert container["Environment"]["SHROTA_BASE_MODEL"] == place


def test_an_async_endpoint_takes_long_recordings_and_wakes_from_no_machine_at_all():
    requests = requests_of(**MODES["async"])
    sent = by_operation(requests)
    assert sent["CreateModel"]["PrimaryContainer"]["Environment"]["SHROTA_MAX_BODY_BYTES"] == str(2**30)
    assert sent["RegisterScalableTarget"]["MinCapacity"] == 0
    assert [request.operation for request in requests[-3:]] == [
        "PutScalingPolicy",
        "PutScalingPolicy",
        "PutMetricAlarm",
    ]
    assert sent["PutMetricAlarm"]["MetricName"] == "HasBacklogWithoutCapacity"
    assert requests[2].then_wait_for == "endpoint"  # before it is in service it cannot be scaled


def test_adapters_are_components_on_the_machines_of_their_base():
    requests = requests_of(**MODES["components"])
    base, adapter = (r.parameters for r in requests if r.operation == "CreateInferenceComponent")
    assert adapter["InferenceComponentName"] == "hindi"
    assert adapter["Specification"] == {
        "BaseInferenceComponentName": base["InferenceComponentName"],
        "Container": {"ArtifactUrl": "s3://speech/hindi.tar.gz"},
    }
    variant = by_operation(requests)["CreateEndpointConfig"]["ProductionVariants"][0]
    assert "ModelName" not in variant and variant["ManagedInstanceScaling"]["MaxInstanceCount"] == 2
    (alone,) = requests_of(**MODES["adapter"])
    assert alone.parameters["Specification"]["BaseInferenceComponentName"] == "marathi-base"


def test_a_revision_updates_the_endpoint_and_leaves_the_older_model():
    sent = by_operation(requests_of(revision="2"))
    assert sent["CreateModel"]["ModelName"] == "marathi-2"
    update = sent["UpdateEndpoint"]
    assert (update["EndpointName"], update["EndpointConfigName"]) == ("marathi", "marathi-2")
    assert update["RetainAllVariantProperties"], "as many machines go on as scaling made"
    assert update["ExcludeRetainedVariantProperties"] == [{"VariantPropertyType": "DataCaptureConfig"}]
    assert "CreateEndpoint" not in sent


def test_a_transform_sends_one_file_at_a_time_and_waits_an_hour_for_it():
    sent = by_operation(requests_of(**MODES["batch"]))["CreateTransformJob"]
    assert sent["BatchStrategy"] == "SingleRecord" and sent["TransformInput"]["SplitType"] == "None"
    assert sent["ModelClientConfig"]["InvocationsTimeoutInSeconds"] == 3_600
    assert sent["MaxConcurrentTransforms"] * sent["MaxPayloadInMB"] <= 100


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": None}, "--model is missing: real-time needs it"),
        ({"mode": "async"}, "--output is missing: async needs it"),
        ({"mode": "adapter", "model": "s3://speech/a.tar.gz"}, "--base-component is missing"),
        ({"name": "under_score"}, "--name 'under_score'"),
        ({"capture": "capture"}, "--capture 'capture' is not of the form s3://"),
        ({"min_instances": 0}, "--min-instances must be at least 1 for real-time"),
        ({"max_instances": 1, "min_instances": 2}, "--max-instances is 1; --min-instances is 2"),
        ({**MODES["batch"], "max_requests": 8, "max_payload_mb": 20}, "is 160; a transform takes 100"),
        ({**MODES["batch"], "max_instances": 2}, "batch does not scale"),
        ({**MODES["batch"], "accept": "text/html"}, "--accept is not one of"),
        ({"adapter": ("a=s3://speech/a.tar.gz",)}, "--adapter is for components"),
        ({**MODES["components"], "adapter": ("a=s3://speech/a",)}, "is one .tar.gz"),
        ({"environment": ("X",)}, "--environment 'X' is not written NAME=VALUE"),
        ({"startup_timeout_s": 30}, "--startup-timeout-s must lie between"),
        ({**MODES["multi-model"], "revision": "2"}, "--revision is for"),
    ],
)
def test_what_would_be_refused_later_is_refused_now(changes, said):
    with pytest.raises(ConfigError) as caught:
        Deployment(**{**COMMON, **changes})
    assert any(said in fault for fault in caught.value.faults), caught.value.faults


def test_a_dry_run_prints_requests_that_can_be_read_back(capsys):
    flags = [word for name, value in COMMON.items() for word in (f"--{name}", value)]
    assert run_command(command, [*flags, "--max-instances", "2", "--dry-run"]) == 0
    said = capsys.readouterr()
    operations = [request["operation"] for request in json.loads(said.out)]
    assert operations == [
        "CreateModel",
        "CreateEndpointConfig",
        "CreateEndpoint",
        "RegisterScalableTarget",
        "PutScalingPolicy",
    ]
    assert said.err == ""


@pytest.fixture
def account(monkeypatch):
    """moto's AWS, in this process."""
    from moto import mock_aws

    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws():
        yield


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize("mode", ["real-time", "real-time, all", "async", "multi-model", "batch"])
def test_moto_takes_what_it_knows(mode):
    said = []
    requests = requests_of(**MODES[mode], instance_type="ml.c5.2xlarge")  # moto knows no newer ones
    submit(requests, None, said.append)
    created = [line.partition(":")[0] for line in said if not line.startswith("waiting")]
    assert created == [request.operation for request in requests]


@pytest.mark.usefixtures("account")
def test_a_field_of_one_answer_fills_the_next_request():
    import boto3

    submit(requests_of(**MODES["async"], instance_type="ml.c5.2xlarge"), None, print)
    (alarm,) = boto3.client("cloudwatch").describe_alarms()["MetricAlarms"]
    scaling = boto3.client("application-autoscaling")
    policies = scaling.describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"]
    arns = {policy["PolicyName"]: policy["PolicyARN"] for policy in policies}
    assert alarm["AlarmActions"] == [arns["marathi-wake"]]


@pytest.mark.usefixtures("account")
def test_a_refusal_of_aws_is_passed_on_with_the_operation():
    update = Request(
        service="sagemaker",
        operation="DescribeEndpoint",
        parameters={"EndpointName": "nonesuch"},
    )
    with pytest.raises(AwsError, match=r"DescribeEndpoint: .*Could not find"):
        submit([update], None, print)
