"""Settings from the environment and the command line."""

from dataclasses import fields
from pathlib import Path

import pytest

from serve.errors import ConfigError
from serve.settings import Settings


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


@pytest.mark.parametrize("spec", fields(Settings), ids=lambda spec: spec.name)
def test_every_field_is_a_variable_and_a_flag(spec):
    value = {
        "model_dir": "/m",
        "base_model": "openai/whisper-tiny",
        "cache_dir": "/c",
        "offline": "true",
        "engine": "transformers",
        "quantization": "int4",
        "host": "127.0.0.1",
        "default_accept": "text/plain",
        "log_level": "error",
    }.get(spec.name, "7")
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
