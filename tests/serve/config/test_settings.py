"""Settings from the environment and the command line."""

from dataclasses import fields
from pathlib import Path

import pytest

from serve.config.settings import Settings
from serve.errors import ConfigError


def test_an_empty_environment_gives_the_defaults_of_a_sagemaker_container():
    settings = Settings.from_env({})
    assert (settings.model_dir, settings.host, settings.port) == (Path("/opt/ml/model"), "0.0.0.0", 8080)
    assert settings.quantization == "int8"
    assert settings == Settings()


def test_flags_win_over_our_variables_and_those_over_the_platforms():
    environ = {"SAGEMAKER_BIND_TO_PORT": "1", "SHROTA_PORT": "2"}
    assert Settings.from_env({"SAGEMAKER_BIND_TO_PORT": "1"}).port == 1
    assert Settings.from_env(environ).port == 2
    assert Settings.from_env(environ, ["--port", "3"]).port == 3


@pytest.mark.parametrize("text", ["true", "TRUE", "True"])
def test_a_batch_transform_says_so_in_any_case(text):
    assert Settings.from_env({"SAGEMAKER_BATCH": text}).batch
    assert not Settings.from_env({"SAGEMAKER_BATCH": "false"}).batch


def test_what_a_batch_transform_will_send_is_let_in():
    sends = {"SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": "64", "SAGEMAKER_MAX_PAYLOAD_IN_MB": "200"}
    settings = Settings.from_env(sends)
    assert (settings.max_requests, settings.max_body_bytes) == (64, 200 << 20)
    sends = {"SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": "1", "SAGEMAKER_MAX_PAYLOAD_IN_MB": "6"}
    assert Settings.from_env(sends) == Settings()  # which lets more in
    assert Settings.from_env({"SAGEMAKER_MAX_PAYLOAD_IN_MB": "0"}).max_body_bytes == 1 << 30  # no limit
    with pytest.raises(ConfigError, match="SAGEMAKER_MAX_PAYLOAD_IN_MB: 'many' is not a whole number"):
        Settings.from_env({"SAGEMAKER_MAX_PAYLOAD_IN_MB": "many"})


def test_the_platforms_root_may_lie_elsewhere():
    assert Settings.from_env({"SAGEMAKER_BASE_DIR": "/elsewhere"}).model_dir == Path("/elsewhere/model")


@pytest.mark.parametrize("spec", fields(Settings), ids=lambda spec: spec.name)
def test_every_field_is_a_variable_and_a_flag(spec):
    value = {
        "model_dir": "/m",
        "base_model": "openai/whisper-tiny",
        "cache_dir": "/c",
        "engine": "transformers",
        "quantization": "int4",
        "host": "127.0.0.1",
        "default_accept": "text/plain",
        "log_level": "error",
    }.get(spec.name, "true" if spec.type == "bool" else "7")
    from_variable = Settings.from_env({f"SHROTA_{spec.name.upper()}": value})
    from_flag = Settings.from_env({}, [f"--{spec.name.replace('_', '-')}", value])
    assert from_variable == from_flag
    assert str(getattr(from_flag, spec.name)).lower() in (value, f"{value}.0")


def test_a_switch_needs_no_value():
    assert Settings.from_env({}, ["--offline", "--port", "9"]).offline


def test_all_faults_are_reported_together():
    environ = {"SHROTA_PORT": "http", "SHROTA_QUANTISATION": "int8", "SHROTA_OFFLINE": "perhaps"}
    with pytest.raises(ConfigError) as refused:
        Settings.from_env(environ, ["--drain-s", "29", "--max-audio-s", "inf", "--n-threads", "0"])
    faults = "\n".join(refused.value.faults)
    for name in (*environ, "drain_s", "max_audio_s", "n_threads"):
        assert name in faults
    assert len(refused.value.faults) == 6


def test_an_empty_variable_is_as_good_as_none():
    assert Settings.from_env({"SHROTA_PORT": " "}).port == 8080


def test_variables_of_training_are_none_of_our_business():
    assert Settings.from_env({"SHROTA_TRAIN_CONFIG": "x.yaml", "HOME": "/"}) == Settings()


def test_help_explains_every_setting_and_gives_examples(capsys):
    with pytest.raises(SystemExit) as finished:
        Settings.from_env({}, ["--help"])
    assert finished.value.code == 0
    text = capsys.readouterr().out
    for spec in fields(Settings):
        assert f"--{spec.name.replace('_', '-')}" in text
        assert f"SHROTA_{spec.name.upper()}" in " ".join(text.split())
    assert "examples:" in text


def test_four_bits_need_the_engine_that_has_them():
    with pytest.raises(ConfigError, match="int4"):
        Settings(engine="ctranslate2", quantization="int4")
    assert Settings(quantization="int4").engine == "auto"
