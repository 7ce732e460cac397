"""Training jobs: faults before money is spent, requests that AWS's own model accepts."""

from __future__ import annotations

import json

import botocore.session
import pytest
from botocore.validate import ParamValidator

from serve.config.command_line import run_command
from serve.errors import ConfigError
from train.loop.metrics import MAX_DEFINITIONS, metric_definitions
from train.sagemaker.launch import command
from train.sagemaker.launch_request import Launch, training_request

REQUIRED = {
    "name": "marathi-1",
    "image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/shrota:0.1.0",
    "role": "arn:aws:iam::123456789012:role/shrota-training",
    "output": "s3://speech/jobs",
}
FLAGS = [word for name, value in REQUIRED.items() for word in (f"--{name}", value)]
EVERYTHING = {
    "channel": ("train=s3://speech/shards/train", "test=s3://speech/shards/test"),
    "hyperparameter": ("epochs=2", "augment.noise=0.3", 'lora_targets=["q_proj"]'),
    "environment": ("NCCL_DEBUG=INFO",),
    "tag": ("team=speech",),
    "instance_type": "ml.g5.12xlarge",
    "instances": 2,
    "spot": True,
    "tensorboard": "s3://speech/tensorboard",
    "test_set": ("channel-test",),
    "retries": 2,
    "subnet": ("subnet-1",),
    "security_group": ("sg-1",),
    "isolated": True,
    "encrypt_traffic": True,
    "kms_key": "alias/speech",
}


def assert_shape(request):
    """Hold a request against the service model that boto3 ships: names, types, lengths, what is required."""
    service = botocore.session.get_session().get_service_model(request.service)
    shape = service.operation_model(request.operation).input_shape
    report = ParamValidator().validate(request.parameters, shape)
    assert not report.has_errors(), report.generate_report()


@pytest.mark.parametrize("changes", [{}, EVERYTHING], ids=["the least", "everything"])
def test_the_request_has_the_shape_of_the_api(changes):
    assert_shape(training_request(Launch(**REQUIRED, **changes)))


def test_a_spot_job_waits_longer_than_it_runs_and_keeps_checkpoints_of_its_own():
    sent = training_request(Launch(**REQUIRED, spot=True, max_runtime_s=3_600)).parameters
    assert sent["EnableManagedSpotTraining"] is True
    condition = sent["StoppingCondition"]
    assert condition["MaxWaitTimeInSeconds"] >= condition["MaxRuntimeInSeconds"] == 3_600
    assert sent["CheckpointConfig"] == {
        "S3Uri": "s3://speech/jobs/marathi-1/checkpoints",
        "LocalPath": "/opt/ml/checkpoints",
    }
    assert "MaxWaitTimeInSeconds" not in training_request(Launch(**REQUIRED)).parameters["StoppingCondition"]


def test_the_definitions_of_metrics_come_from_the_table_that_prints_them():
    sent = training_request(Launch(**REQUIRED, test_set=("channel-test",))).parameters
    assert sent["AlgorithmSpecification"]["MetricDefinitions"] == metric_definitions(("channel-test",))


def test_hyperparameters_are_strings_and_channels_read_s3_as_they_go():
    sent = training_request(Launch(**REQUIRED, **EVERYTHING)).parameters
    assert all(isinstance(value, str) for value in sent["HyperParameters"].values())
    assert sent["HyperParameters"]["config"] == "whisper-large-v2-mr"
    assert {each["ChannelName"]: each["InputMode"] for each in sent["InputDataConfig"]} == {
        "train": "FastFile",
        "test": "FastFile",
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "a--b_c"}, "--name 'a--b_c' is not a valid name"),
        ({"role": "shrota"}, "--role 'shrota' is not an ARN"),
        ({"output": "bucket/x"}, "--output 'bucket/x' is not of the form s3://"),
        ({"channel": ("train",)}, "--channel 'train' is not written NAME=VALUE"),
        ({"channel": ("train=x",)}, "--channel train 'x' is not of the form s3://"),
        ({"channel": ("a=s3://abc/x", "a=s3://abc/y")}, "names 'a' twice"),
        ({"hyperparameter": ("epochs=many",)}, "hyperparameter epochs: 'many' is not a number"),
        ({"hyperparameter": ("colour=red",)}, "hyperparameter colour is unknown"),
        ({"hyperparameter": (f"language={'m' * 2501}",)}, "longer than 2500 characters"),
        ({"config": "nonesuch"}, "config 'nonesuch'"),
        ({"max_wait_s": 90_000}, "--max-wait-s is for --spot"),
        ({"spot": True, "max_runtime_s": 100, "max_wait_s": 99}, "--max-wait-s is 99"),
        ({"spot": True, "warm_pool_s": 60}, "exclude each other"),
        ({"instances": 0}, "--instances must be at least 1"),
        ({"instance_type": "g5.xlarge"}, "--instance-type 'g5.xlarge'"),
        ({"subnet": ("subnet-1",)}, "--subnet and --security-group go together"),
        ({"test_set": tuple(f"set-{n}" for n in range(20))}, f"more than {MAX_DEFINITIONS} metrics"),
    ],
)
def test_what_would_be_refused_later_is_refused_now(changes, said):
    with pytest.raises(ConfigError) as caught:
        Launch(**{**REQUIRED, **changes})
    assert any(said in fault for fault in caught.value.faults), caught.value.faults


def test_every_fault_is_said_at_once_and_nothing_is_printed_to_be_sent(capsys):
    wrong = ["--name", "-", "--image", "i", "--role", "r", "--output", "o", "--instances", "few", "--dry-run"]
    assert run_command(command, wrong) == 1
    said = capsys.readouterr()
    assert len(said.err.splitlines()) >= 4 and all(
        line.startswith("error: ") for line in said.err.splitlines()
    )
    for part in ("--name", "--role", "--output", "--instances"):
        assert part in said.err
    assert said.out == ""


def test_a_missing_flag_is_named(capsys):
    assert run_command(command, []) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"error: --{name} is missing" for name in ("name", "image", "role", "output")
    ]


def test_a_dry_run_prints_the_request_alone(capsys):
    assert run_command(command, [*FLAGS, "--dry-run"]) == 0
    said = capsys.readouterr()
    (request,) = json.loads(said.out)
    assert request["operation"] == "CreateTrainingJob" and said.err == ""


def test_moto_takes_the_job(monkeypatch):
    import boto3
    from moto import mock_aws

    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws():
        assert run_command(command, [*FLAGS, "--spot", "--channel", "train=s3://speech/shards"]) == 0
        job = boto3.client("sagemaker").describe_training_job(TrainingJobName="marathi-1")
    assert job["HyperParameters"]["config"] == "whisper-large-v2-mr" and job["EnableManagedSpotTraining"]


def test_without_a_region_nothing_is_sent_and_one_sentence_says_so(monkeypatch, tmp_path, capsys):
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    assert run_command(command, FLAGS) == 1
    assert "error: sagemaker: You must specify a region" in capsys.readouterr().err
